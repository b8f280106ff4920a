//! One sending half per lane, each of a type of its own.

use crate::network::{Lane, ReplicaNetwork};
use atlas_common::NodeId;
use bytes::Bytes;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// The name of a lane as a type.
pub trait LaneName: Send + Sync + 'static {
    /// The lane.
    const LANE: Lane;
}

macro_rules! lane {
    ($name:ident, $stub:ident, $doc:literal) => {
        #[doc = concat!("[`Lane::", stringify!($name), "`] as a type.")]
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}

        impl LaneName for $name {
            const LANE: Lane = Lane::$name;
        }

        #[doc = $doc]
        pub type $stub = LaneStub<$name>;
    };
}

lane!(
    Ordering,
    OrderingStub,
    "Sends messages of the ordering protocol."
);
lane!(
    Application,
    ApplicationStub,
    "Forwards client requests to other replicas."
);
lane!(
    Transfer,
    TransferStub,
    "Sends messages of log and state transfer."
);
lane!(
    Reconfiguration,
    ReconfigurationStub,
    "Sends messages about membership."
);

/// Sends on one lane and no other: code that holds a [`TransferStub`] cannot touch ordering traffic.
pub struct LaneStub<L: LaneName> {
    network: Arc<dyn ReplicaNetwork>,
    lane: PhantomData<L>,
}

impl<L: LaneName> LaneStub<L> {
    /// The stub of this lane over a network.
    #[must_use]
    pub const fn new(network: Arc<dyn ReplicaNetwork>) -> Self {
        Self {
            network,
            lane: PhantomData,
        }
    }

    /// Queues a frame for one replica, as [`ReplicaNetwork::send`] does.
    pub fn send(&self, to: NodeId, frame: Bytes) {
        self.network.send(to, L::LANE, frame);
    }

    /// Queues the same bytes for every other replica.
    pub fn broadcast(&self, frame: Bytes) {
        self.network.broadcast(L::LANE, frame);
    }

    /// The other replicas, in ascending order.
    #[must_use]
    pub fn peers(&self) -> &[NodeId] {
        self.network.peers()
    }
}

impl<L: LaneName> Clone for LaneStub<L> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.network))
    }
}

impl<L: LaneName> fmt::Debug for LaneStub<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneStub")
            .field("lane", &L::LANE)
            .finish_non_exhaustive()
    }
}
