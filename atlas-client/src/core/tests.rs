//! The core against replicas whose every word is in the script.

mod reads;
mod replies;
mod sending;

use super::*;
use atlas_common::crypto::{KeyPair, PublicKey, Signature};
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::{Digest, OpNumber, SeqNo, View};
use atlas_core::Limits;
use atlas_smr_core::client_message::OperationResult;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Signs, and counts how often.
#[derive(Debug)]
struct CountingSigner(KeyPair, AtomicUsize);

impl Signer for CountingSigner {
    fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    fn sign(&self, digest: &Digest) -> Signature {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.sign(digest)
    }
}

struct Rig {
    core: ClientCore,
    signer: Arc<CountingSigner>,
    now: Time,
    /// To whom (all: `None`), what.
    sent: Vec<(Option<NodeId>, ClientMessage)>,
    done: Vec<(CallId, Result<Bytes, CallError>)>,
    hint: LeaderHint,
}

const SESSION: SessionId = SessionId(7);

fn config(model: FaultModel, n: usize) -> CoreConfig {
    CoreConfig::new(Digest::of(b"cluster"), Quorums::new(model, n).unwrap(), 9)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn ok(text: &str) -> OperationResult {
    OperationResult::Ok(bytes(text))
}

impl Rig {
    fn new(config: CoreConfig) -> Self {
        let signer = Arc::new(CountingSigner(
            KeyPair::from_seed(&[3; 32]),
            AtomicUsize::new(0),
        ));
        let core = ClientCore::new(config, Arc::clone(&signer) as Arc<dyn Signer>).unwrap();
        let hint = LeaderHint {
            view: View(0),
            leader: Some(NodeId(0)),
        };
        let now = Time::from_millis(1);
        Self {
            core,
            signer,
            now,
            sent: vec![],
            done: vec![],
            hint,
        }
    }

    /// With an open session, and replica 0 known to lead.
    fn open(config: CoreConfig) -> Self {
        let n = config.quorums.n() as u32;
        let mut rig = Self::new(config);
        rig.core.connect();
        rig.poll();
        assert!(rig.take_bundle().opens_session());
        (0..n).for_each(|replica| rig.say(replica, Reply::Opened(SESSION)));
        assert_eq!(rig.core.session(), Some(SESSION));
        rig
    }

    fn byzantine() -> Self {
        Self::open(config(FaultModel::Byzantine, 4))
    }

    fn poll(&mut self) {
        while let Some(output) = self.core.poll(self.now) {
            match output {
                Output::Send { to, message } => self.sent.push((Some(to), message)),
                Output::SendAll { message } => self.sent.push((None, message)),
                Output::Completed { call, result } => self.done.push((call, result)),
            }
        }
    }

    fn call(&mut self, text: &str) -> CallId {
        let id = self.core.call(self.now, bytes(text));
        self.poll();
        id
    }

    fn calls(&mut self, count: usize) -> Vec<CallId> {
        let ids = (0..count)
            .map(|i| self.core.call(self.now, bytes(&i.to_string())))
            .collect();
        self.poll();
        ids
    }

    fn say(&mut self, replica: u32, reply: Reply) {
        let message = ReplyMessage {
            hint: self.hint,
            reply,
        };
        self.core.on_message(self.now, NodeId(replica), message);
        self.poll();
    }

    fn results(&mut self, replica: u32, first: u64, texts: &[&str]) {
        let results = texts.iter().map(|text| ok(text)).collect();
        self.say(
            replica,
            Reply::Results {
                session: SESSION,
                first: OpNumber(first),
                results,
            },
        );
    }

    /// Lets time pass, as a driver would.
    fn pass(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        loop {
            let due = self.core.next_deadline();
            if due > end {
                break;
            }
            self.now = self.now.max(due);
            self.core.on_timeout(self.now);
            self.poll();
            assert!(
                self.core.next_deadline() > self.now,
                "the same deadline again and again"
            );
        }
        self.now = end;
    }

    fn take_sent(&mut self) -> Vec<(Option<NodeId>, ClientMessage)> {
        std::mem::take(&mut self.sent)
    }

    /// The one message sent, which must be a bundle.
    fn take_bundle(&mut self) -> RequestBundle {
        let sent = self.take_sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        decode(&sent[0].1)
    }

    fn take_done(&mut self) -> Vec<(CallId, Result<Bytes, CallError>)> {
        std::mem::take(&mut self.done)
    }

    fn signatures(&self) -> usize {
        self.signer.1.load(Ordering::Relaxed)
    }
}

fn decode(message: &ClientMessage) -> RequestBundle {
    let ClientMessage::Bundle(raw) = message else {
        panic!("no bundle: {message:?}")
    };
    let genesis = Digest::of(b"cluster");
    RequestBundle::decode(raw.clone(), &genesis, &Limits::default()).unwrap()
}
