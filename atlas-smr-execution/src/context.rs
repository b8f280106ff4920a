//! What an application may know besides its state and the request.

use atlas_common::digest::DigestBuilder;
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, ClientId, Digest, OpNumber, SeqNo, SessionId};

/// The circumstances of an operation, the same on every replica.
#[derive(Clone, Debug)]
pub struct ExecutionContext {
    seq: SeqNo,
    time: AgreedTime,
    seed: Digest,
    index: u64,
    session: SessionId,
    client: Option<ClientId>,
    operation: OpNumber,
    random: Option<SeededRng>,
}

impl ExecutionContext {
    /// A context outside of a cluster, to test an application with: decision `seq`, made at `time`.
    #[must_use]
    pub fn standalone(seq: SeqNo, time: AgreedTime) -> Self {
        Self::of_decision(seq, time, &Digest::default(), &Digest::default())
    }

    pub(crate) fn of_decision(
        seq: SeqNo,
        time: AgreedTime,
        genesis: &Digest,
        batch: &Digest,
    ) -> Self {
        let seed = DigestBuilder::new("atlas v1 execution seed")
            .digest(genesis)
            .number(seq.0)
            .digest(batch);
        Self {
            seq,
            time,
            seed: seed.finish(),
            index: 0,
            session: SessionId::ZERO,
            client: None,
            operation: OpNumber::ZERO,
            random: None,
        }
    }

    /// Turns to the next operation of the decision, number `index` in it.
    pub(crate) fn turn_to(
        &mut self,
        index: u64,
        client: ClientId,
        session: SessionId,
        operation: OpNumber,
    ) {
        self.index = index;
        self.client = Some(client);
        self.session = session;
        self.operation = operation;
        self.random = None;
    }

    /// The same for the operation behind this one, in the same bundle.
    pub(crate) fn turn_to_next(&mut self) {
        self.index += 1;
        self.operation = self.operation.next();
        self.random = None;
    }

    /// The same before anything was asked of it.
    pub(crate) fn anew(&self) -> Self {
        Self {
            random: None,
            ..self.clone()
        }
    }

    /// Whether this is the operation `count` behind `first`, in the same decision and session.
    pub(crate) fn follows(&self, first: &Self, count: u64) -> bool {
        self.seq == first.seq
            && self.session == first.session
            && self.index == first.index + count
            && self.operation == first.operation.plus(count)
    }

    /// The decision that the operation is part of.
    #[must_use]
    pub const fn seq(&self) -> SeqNo {
        self.seq
    }

    /// How many operations of this decision were executed before this one.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The client's session.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// Who asks; `None` outside of a cluster.
    #[must_use]
    pub const fn client(&self) -> Option<ClientId> {
        self.client
    }

    /// The operation's number in its session.
    #[must_use]
    pub const fn operation(&self) -> OpNumber {
        self.operation
    }

    /// The time that the replicas agreed on: the proposer's clock, never earlier than for the
    /// operation before. All operations of a decision have the same.
    #[must_use]
    pub const fn time(&self) -> AgreedTime {
        self.time
    }

    /// Random numbers of this operation's own, the same on every replica. Anybody who knows the
    /// decision can compute them, and a proposer can try out batches until they please it: not for
    /// secrets or lotteries.
    pub fn random(&mut self) -> &mut SeededRng {
        let (seed, index) = (&self.seed, self.index);
        self.random.get_or_insert_with(|| {
            let digest = DigestBuilder::new("atlas v1 operation seed")
                .digest(seed)
                .number(index)
                .finish();
            let mut number = [0; 8];
            number.copy_from_slice(&digest.as_bytes()[..8]);
            SeededRng::new(u64::from_le_bytes(number))
        })
    }
}
