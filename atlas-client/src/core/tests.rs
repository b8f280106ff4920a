//! The core against replicas whose every word is in the script.

use super::*;
use atlas_common::crypto::{KeyPair, PublicKey, Signature};
use atlas_common::quorum::Quorums;
use atlas_common::{Digest, OpNumber, SeqNo, View};
use atlas_core::Limits;
use atlas_smr_core::client_message::ReadRequest;
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

fn read_of(message: &ClientMessage) -> &ReadRequest {
    let ClientMessage::Read(read) = message else {
        panic!("no read: {message:?}")
    };
    read
}

#[test]
fn a_first_call_opens_a_session_and_goes_out_when_it_is_open() {
    let mut rig = Rig::new(config(FaultModel::Byzantine, 4));
    assert_eq!(rig.core.next_deadline(), Time::NEVER);
    let call = rig.call("a");
    assert!(rig.take_bundle().opens_session());
    rig.say(0, Reply::Opened(SESSION));
    assert_eq!(rig.take_sent(), []);
    rig.say(1, Reply::Opened(SESSION));
    let bundle = rig.take_bundle();
    assert_eq!((bundle.session(), bundle.first()), (SESSION, OpNumber(1)));
    rig.results(0, 1, &["A"]);
    assert_eq!(rig.take_done(), []);
    rig.results(1, 1, &["A"]);
    assert_eq!(rig.take_done(), [(call, Ok(bytes("A")))]);
    assert_eq!(rig.core.next_deadline(), Time::NEVER);
}

#[test]
fn a_lone_call_goes_to_the_leader_at_once() {
    let mut rig = Rig::byzantine();
    rig.call("a");
    assert_eq!(rig.sent[0].0, Some(NodeId(0)));
    assert_eq!(rig.take_bundle().operations(), [bytes("a")]);
}

#[test]
fn calls_gather_behind_what_is_in_flight_and_share_one_signature() {
    let mut rig = Rig::byzantine();
    let before = rig.signatures();
    for i in 0..250 {
        rig.call(&i.to_string());
    }
    // 1, 1, 2, 4: as many as are in flight already, in at most four bundles; 242 wait.
    let sizes: Vec<usize> = rig
        .take_sent()
        .iter()
        .map(|(_, message)| decode(message).operations().len())
        .collect();
    assert_eq!(sizes, [1, 1, 2, 4]);
    for replica in 0..2 {
        rig.results(replica, 1, &["x"]);
    }
    let sizes: Vec<usize> = rig
        .take_sent()
        .iter()
        .map(|(_, message)| decode(message).operations().len())
        .collect();
    assert_eq!(sizes, [242]);
    assert_eq!(rig.signatures() - before, 5);
}

#[test]
fn hundreds_of_callers_who_call_again_settle_on_one_signature_for_all() {
    let mut rig = Rig::byzantine();
    (0..250).for_each(|i| drop(rig.call(&i.to_string())));
    let mut signatures = 0;
    for _ in 0..10 {
        let before = rig.signatures();
        let sent = rig.take_sent();
        for (_, message) in &sent {
            let bundle = decode(message);
            for replica in 0..2 {
                let results = bundle.operations().iter().map(|_| ok("x")).collect();
                let (session, first) = (SESSION, bundle.first());
                rig.core.on_message(
                    rig.now,
                    NodeId(replica),
                    ReplyMessage {
                        hint: rig.hint,
                        reply: Reply::Results {
                            session,
                            first,
                            results,
                        },
                    },
                );
            }
        }
        // Every caller that is answered calls again before the driver polls.
        let mut answered = 0;
        while let Some(Output::Completed { .. }) = rig.core.next_output() {
            answered += 1;
        }
        rig.calls(answered);
        signatures = rig.signatures() - before;
    }
    assert_eq!(signatures, 1);
    assert_eq!(rig.take_bundle().operations().len(), 250);
}

#[test]
fn a_bundle_keeps_to_the_limits_of_the_cluster() {
    let mut small = config(FaultModel::Byzantine, 4);
    small.limits.operation_bytes_max = 1000;
    small.limits.bundle_bytes_max = 2100;
    small.limits.bundle_operations_max = 3;
    let mut rig = Rig::open(small);
    for size in [1000, 1000, 10, 10, 10, 10] {
        rig.core.call(rig.now, Bytes::from(vec![0; size]));
    }
    rig.poll();
    let bundles: Vec<RequestBundle> = rig
        .take_sent()
        .iter()
        .map(|(_, message)| decode(message))
        .collect();
    let sizes: Vec<usize> = bundles
        .iter()
        .map(|bundle| bundle.operations().len())
        .collect();
    assert_eq!(sizes, [1, 3]);
    assert!(bundles.iter().all(|bundle| bundle.raw().len() <= 2100));
    let large = rig.core.call(rig.now, Bytes::from(vec![0; 1001]));
    rig.poll();
    let error = CallError::TooLarge {
        found_bytes: 1001,
        limit_bytes: 1000,
    };
    assert_eq!(rig.take_done(), [(large, Err(error))]);
}

#[test]
fn what_is_in_flight_stays_within_the_replies_that_replicas_keep() {
    let mut narrow = config(FaultModel::Byzantine, 4);
    narrow.limits.bundle_operations_max = 4;
    narrow.limits.session_replies_max = 10;
    let mut rig = Rig::open(narrow);
    rig.calls(30);
    let in_flight = |rig: &mut Rig| -> Vec<(u64, u64)> {
        let sent = rig.take_sent();
        sent.iter()
            .map(|(_, m)| (decode(m).first().0, decode(m).last().0))
            .collect()
    };
    assert_eq!(in_flight(&mut rig), [(1, 4), (5, 8), (9, 10)]);
    // The oldest holds the window, whatever came behind it.
    for replica in 0..2 {
        rig.results(replica, 5, &["x"; 4]);
    }
    assert_eq!(in_flight(&mut rig), []);
    for replica in 0..2 {
        rig.results(replica, 1, &["x"; 4]);
    }
    assert_eq!(in_flight(&mut rig), [(11, 14), (15, 18)]);
    assert_eq!(rig.take_done().len(), 8);
}

#[test]
fn trap_a_lost_message_is_sent_again_to_all_the_same_bytes() {
    let mut rig = Rig::byzantine();
    let call = rig.call("a");
    let first = rig.take_sent();
    assert_eq!(first[0].0, Some(NodeId(0)));
    rig.pass(Duration::from_secs(9));
    let again = rig.take_sent();
    assert!(again.len() >= 4, "only {} times in 9 s", again.len());
    for (to, message) in &again {
        assert_eq!((to, message), (&None, &first[0].1));
    }
    for replica in [2, 3] {
        rig.results(replica, 1, &["A"]);
    }
    assert_eq!(rig.take_done(), [(call, Ok(bytes("A")))]);
}

#[test]
fn trap_a_lost_request_for_a_session_is_sent_again() {
    let mut rig = Rig::new(config(FaultModel::Byzantine, 4));
    rig.call("a");
    let first = rig.take_sent();
    rig.pass(Duration::from_secs(5));
    let again = rig.take_sent();
    assert!(again.len() >= 2 && again.iter().all(|sent| sent == &first[0]));
}

#[test]
fn retransmission_backs_off_to_its_cap() {
    let mut patient = config(FaultModel::Byzantine, 4);
    patient.call_timeout = Duration::from_secs(100);
    let mut rig = Rig::open(patient);
    rig.call("a");
    rig.take_sent();
    rig.pass(Duration::from_secs(50));
    let backing_off = rig.take_sent().len();
    rig.pass(Duration::from_secs(49));
    assert_eq!(rig.take_sent().len(), 10, "one every 5 s");
    assert!((10..25).contains(&backing_off), "{backing_off}");
}

#[test]
fn row_33_f_forged_replies_are_never_accepted() {
    let mut rig = Rig::byzantine();
    let call = rig.call("a");
    for forged in ["x", "y", "x"] {
        rig.results(3, 1, &[forged]);
    }
    rig.results(0, 1, &["A"]);
    // Not a replica at all.
    rig.results(4, 1, &["x"]);
    rig.results(u32::MAX, 1, &["x"]);
    assert_eq!(rig.take_done(), []);
    rig.results(1, 1, &["A"]);
    assert_eq!(rig.take_done(), [(call, Ok(bytes("A")))]);
}

#[test]
fn row_33_a_liar_opens_no_session_and_ends_none() {
    let mut rig = Rig::new(config(FaultModel::Byzantine, 4));
    rig.call("a");
    rig.say(3, Reply::Opened(SessionId(66)));
    rig.say(3, Reply::Opened(SessionId(66)));
    rig.say(2, Reply::Opened(SESSION));
    assert_eq!(rig.core.session(), None);
    rig.say(1, Reply::Opened(SESSION));
    rig.say(3, Reply::SessionExpired(SESSION));
    rig.say(3, Reply::SessionExpired(SESSION));
    assert_eq!(rig.core.session(), Some(SESSION));
}

#[test]
fn a_vote_counts_once_however_often_a_replica_repeats_it() {
    let mut rig = Rig::byzantine();
    rig.calls(3);
    for _ in 0..4 {
        rig.results(2, 1, &["a", "b", "c"]);
        rig.results(2, 2, &["b"]);
    }
    assert_eq!(rig.take_done(), []);
}

#[test]
fn srds21_ordered_calls_wait_for_a_quorum_where_reads_are_not_ordered() {
    let mut reading = config(FaultModel::Byzantine, 4);
    reading.unordered_reads = true;
    let mut rig = Rig::open(reading);
    rig.call("a");
    rig.results(0, 1, &["A"]);
    rig.results(1, 1, &["A"]);
    assert_eq!(rig.take_done(), []);
    rig.results(2, 1, &["A"]);
    assert_eq!(rig.take_done().len(), 1);
}

#[test]
fn a_crash_cluster_s_first_reply_is_enough() {
    let mut rig = Rig::open(config(FaultModel::Crash, 3));
    let call = rig.call("a");
    rig.results(2, 1, &["A"]);
    assert_eq!(rig.take_done(), [(call, Ok(bytes("A")))]);
}

#[test]
fn partial_replies_from_caches_count_where_they_lie() {
    let mut rig = Rig::byzantine();
    rig.call("1");
    rig.calls(4);
    // Two bundles, 1 and 2 to 5; runs that begin before, end behind and lie across them.
    rig.results(1, 1, &["1", "2", "3"]);
    rig.results(2, 3, &["3", "4", "5", "6", "7"]);
    rig.results(3, 1, &["1"]);
    let done: Vec<Bytes> = rig
        .take_done()
        .into_iter()
        .map(|(_, result)| result.unwrap())
        .collect();
    assert_eq!(done, [bytes("3"), bytes("1")]);
    rig.results(0, 2, &["2", "3", "4", "5"]);
    let done: Vec<Bytes> = rig
        .take_done()
        .into_iter()
        .map(|(_, result)| result.unwrap())
        .collect();
    assert_eq!(done, [bytes("2"), bytes("4"), bytes("5")]);
}

#[test]
fn bundles_may_be_answered_out_of_order() {
    let mut rig = Rig::byzantine();
    let (one, two) = (rig.call("1"), rig.call("2"));
    for replica in [0, 3] {
        rig.results(replica, 2, &["two"]);
    }
    assert_eq!(rig.take_done(), [(two, Ok(bytes("two")))]);
    for replica in [2, 3] {
        rig.results(replica, 1, &["one"]);
    }
    assert_eq!(rig.take_done(), [(one, Ok(bytes("one")))]);
    rig.take_sent();
    rig.call("3");
    assert_eq!(rig.take_bundle().acknowledged(), OpNumber(2));
}

#[test]
fn an_expired_session_leaves_its_calls_in_doubt_and_later_ones_get_a_new_one() {
    let mut rig = Rig::byzantine();
    let lost = rig.call("1");
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    rig.take_sent();
    rig.say(1, Reply::SessionExpired(SESSION));
    assert_eq!(rig.take_done(), []);
    rig.say(2, Reply::SessionExpired(SESSION));
    let request = RequestId {
        client: rig.core.id(),
        session: SESSION,
        operation: OpNumber(1),
    };
    let doubt = Doubt::SessionExpired;
    let error = CallError::UnknownOutcome { request, doubt };
    assert_eq!(rig.take_done(), [(lost, Err(error))]);
    // The read had no effect: it goes on in the next session.
    assert!(rig.take_bundle().opens_session());
    let late = rig.call("2");
    // A replica that lags behind still takes the old one for open.
    for replica in 0..4 {
        rig.say(replica, Reply::Opened(SESSION));
    }
    assert_eq!(rig.core.session(), None);
    for replica in 0..2 {
        rig.say(replica, Reply::Opened(SessionId(8)));
    }
    let bundle = rig.take_bundle();
    assert_eq!(
        (bundle.session(), bundle.first()),
        (SessionId(8), OpNumber(1))
    );
    assert_eq!(bundle.operations(), [bytes("r"), bytes("2")]);
    // Results under the old session's name do not count for the new one.
    for replica in 0..4 {
        rig.results(replica, 1, &["old", "old"]);
    }
    assert_eq!(rig.take_done(), []);
    for replica in 0..2 {
        let (session, first) = (SessionId(8), OpNumber(1));
        rig.say(
            replica,
            Reply::Results {
                session,
                first,
                results: vec![ok("R"), ok("2")],
            },
        );
    }
    assert_eq!(
        rig.take_done(),
        [(read, Ok(bytes("R"))), (late, Ok(bytes("2")))]
    );
}

#[test]
fn deadlines_tell_what_was_sent_from_what_was_not() {
    let mut rig = Rig::new(config(FaultModel::Byzantine, 4));
    let unsent = rig.call("1");
    rig.pass(Duration::from_secs(11));
    assert_eq!(rig.take_done(), [(unsent, Err(CallError::TimedOut))]);
    let mut rig = Rig::byzantine();
    rig.call("0");
    let sent = rig
        .core
        .call_until(rig.now.after(Duration::from_secs(1)), bytes("1"));
    rig.poll();
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    rig.pass(Duration::from_millis(1100));
    let request = RequestId {
        client: rig.core.id(),
        session: SESSION,
        operation: OpNumber(2),
    };
    let doubt = Doubt::Deadline;
    let error = CallError::UnknownOutcome { request, doubt };
    assert!(!error.is_retry_safe());
    assert_eq!(rig.take_done(), [(sent, Err(error))]);
    rig.pass(Duration::from_secs(10));
    let done = rig.take_done();
    assert!(done.contains(&(read, Err(CallError::TimedOut))), "{done:?}");
}

#[test]
fn what_was_given_up_is_sent_on_while_others_wait_behind_it_and_silent_without() {
    let mut rig = Rig::byzantine();
    rig.core
        .call_until(rig.now.after(Duration::from_secs(1)), bytes("1"));
    rig.poll();
    rig.pass(Duration::from_secs(2));
    assert_eq!(rig.take_done().len(), 1);
    rig.take_sent();
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.take_sent(), [], "nobody waits");
    assert_eq!(rig.core.next_deadline(), Time::NEVER);
    // The gap that the lost operation leaves must be filled before this one can run.
    let second = rig.call("2");
    rig.pass(Duration::from_secs(3));
    let firsts: Vec<u64> = rig
        .take_sent()
        .iter()
        .map(|(_, message)| decode(message).first().0)
        .collect();
    assert!(firsts.contains(&1) && firsts.contains(&2), "{firsts:?}");
    // The later one's result shows that the earlier one was executed.
    for replica in 0..2 {
        rig.results(replica, 2, &["2"]);
    }
    assert_eq!(rig.take_done(), [(second, Ok(bytes("2")))]);
    rig.call("3");
    assert_eq!(rig.take_bundle().acknowledged(), OpNumber(2));
}

#[test]
fn a_lying_hint_costs_one_time_out_not_the_client() {
    let mut rig = Rig::byzantine();
    rig.hint = LeaderHint {
        view: View(900),
        leader: Some(NodeId(3)),
    };
    rig.results(3, 1, &["x"]);
    rig.hint = LeaderHint {
        view: View(0),
        leader: Some(NodeId(0)),
    };
    rig.call("a");
    assert_eq!(rig.sent[0].0, Some(NodeId(0)), "one replica's word");
    // The true leader is mute towards this client: what comes next goes to all.
    rig.pass(Duration::from_secs(1));
    rig.results(1, 1, &["A"]);
    rig.results(2, 1, &["A"]);
    rig.take_sent();
    rig.call("b");
    assert_eq!(rig.sent[0].0, None);
}

#[test]
fn when_the_connection_to_the_leader_is_lost_all_are_asked_at_once() {
    let mut rig = Rig::byzantine();
    rig.call("a");
    let first = rig.take_sent();
    rig.core.disconnected(NodeId(0));
    rig.poll();
    assert_eq!(rig.take_sent(), [(None, first[0].1.clone())]);
    rig.call("b");
    assert_eq!(rig.take_sent()[0].0, None);
    rig.core.connected(NodeId(0));
    rig.results(1, 1, &["x", "x"]);
    rig.results(2, 1, &["x", "x"]);
    rig.call("c");
    assert_eq!(rig.take_sent()[0].0, Some(NodeId(0)));
}

#[test]
fn too_many_calls_are_refused_as_busy() {
    let mut narrow = config(FaultModel::Byzantine, 4);
    narrow.calls_waiting_max = 2;
    let mut rig = Rig::new(narrow);
    (0..2).for_each(|_| drop(rig.call("x")));
    let third = rig.call("x");
    assert_eq!(
        rig.take_done(),
        [(third, Err(CallError::Busy { waiting: 2 }))]
    );
    let mut small = config(FaultModel::Byzantine, 4);
    small.bytes_waiting_max = small.limits.operation_bytes_max;
    let mut rig = Rig::new(small);
    rig.core.call(rig.now, Bytes::from(vec![0; 1 << 20]));
    let second = rig.call("x");
    assert_eq!(
        rig.take_done(),
        [(second, Err(CallError::Busy { waiting: 1 }))]
    );
}

#[test]
fn closing_tells_every_call_what_is_known_of_it() {
    let mut rig = Rig::byzantine();
    let sent = rig.call("1");
    let read = rig.core.read(rig.now, bytes("r"), Consistency::Stale);
    rig.poll();
    let waiting = rig.core.call(rig.now, bytes("2"));
    rig.core.close();
    let late = rig.call("3");
    let request = RequestId {
        client: rig.core.id(),
        session: SESSION,
        operation: OpNumber(1),
    };
    let unknown = CallError::UnknownOutcome {
        request,
        doubt: Doubt::Closed,
    };
    let closed = || Err(CallError::Closed);
    let expected = [
        (waiting, closed()),
        (read, closed()),
        (sent, Err(unknown)),
        (late, closed()),
    ];
    assert_eq!(rig.take_done(), expected);
    assert_eq!(rig.core.outstanding(), 0);
    assert_eq!(rig.core.next_deadline(), Time::NEVER);
}

#[test]
fn agreed_errors_are_the_result() {
    let mut rig = Rig::byzantine();
    let calls = rig.calls(3);
    for replica in 0..2 {
        let results = vec![
            OperationResult::InvalidRequest,
            OperationResult::ApplicationFailed,
            OperationResult::ReplyTooLarge,
        ];
        rig.say(
            replica,
            Reply::Results {
                session: SESSION,
                first: OpNumber(1),
                results,
            },
        );
    }
    use crate::error::ApplicationError::{Failed, InvalidRequest, ReplyTooLarge};
    let expected = [InvalidRequest, Failed, ReplyTooLarge].map(|e| Err(CallError::Application(e)));
    assert_eq!(
        rig.take_done(),
        calls.into_iter().zip(expected).collect::<Vec<_>>()
    );
}

fn reading() -> Rig {
    let mut config = config(FaultModel::Byzantine, 4);
    config.unordered_reads = true;
    Rig::open(config)
}

fn answer(rig: &mut Rig, replica: u32, call: CallId, text: &str) {
    rig.say(
        replica,
        Reply::Read {
            id: call.0,
            result: ok(text),
            at: SeqNo(5),
        },
    );
}

#[test]
fn a_linearizable_read_takes_a_quorum_of_equal_answers() {
    let mut rig = reading();
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    let sent = rig.take_sent();
    assert_eq!((sent.len(), sent[0].0), (1, None));
    assert_eq!(read_of(&sent[0].1).operation, bytes("r"));
    for replica in [0, 1, 1, 1] {
        answer(&mut rig, replica, read, "R");
    }
    assert_eq!(rig.take_done(), []);
    answer(&mut rig, 3, read, "R");
    assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
    answer(&mut rig, 2, read, "R");
    assert_eq!(rig.take_done(), []);
}

#[test]
fn a_read_that_replicas_disagree_on_refuse_or_ignore_is_ordered() {
    let disagree: &dyn Fn(&mut Rig, CallId) = &|rig, read| {
        for (replica, text) in [(0, "old"), (1, "new"), (2, "old"), (3, "new")] {
            answer(rig, replica, read, text);
        }
    };
    let refuse: &dyn Fn(&mut Rig, CallId) = &|rig, read| {
        rig.say(0, Reply::ReadRefused(read.0));
        rig.say(0, Reply::ReadRefused(read.0));
        assert_eq!(rig.take_sent(), []);
        rig.say(1, Reply::ReadRefused(read.0));
    };
    let ignore: &dyn Fn(&mut Rig, CallId) = &|rig, _| rig.pass(Duration::from_millis(201));
    for case in [disagree, refuse, ignore] {
        let mut rig = reading();
        let read = rig
            .core
            .read(rig.now, bytes("r"), Consistency::Linearizable);
        rig.poll();
        rig.take_sent();
        case(&mut rig, read);
        assert_eq!(rig.take_bundle().operations(), [bytes("r")]);
        for replica in 0..3 {
            rig.results(replica, 1, &["R"]);
        }
        assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
    }
}

#[test]
fn linearizable_reads_are_ordered_where_the_cluster_says_so() {
    let mut rig = Rig::byzantine();
    rig.core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    assert_eq!(rig.take_bundle().operations(), [bytes("r")]);
}

#[test]
fn a_stale_read_asks_f_plus_1_then_all_then_the_order() {
    let mut rig = Rig::byzantine();
    let read = rig.core.read(rig.now, bytes("r"), Consistency::Stale);
    rig.poll();
    let asked: Vec<_> = rig
        .take_sent()
        .iter()
        .map(|(to, _)| to.unwrap().0)
        .collect();
    assert_eq!(asked, [1, 2]);
    answer(&mut rig, 1, read, "old");
    answer(&mut rig, 2, read, "new");
    let sent = rig.take_sent();
    assert_eq!((sent.len(), sent[0].0), (1, None));
    assert_eq!(read_of(&sent[0].1).id, read.0);
    answer(&mut rig, 3, read, "x");
    answer(&mut rig, 0, read, "y");
    assert_eq!(rig.take_bundle().operations(), [bytes("r")]);
    for replica in 0..2 {
        rig.results(replica, 1, &["R"]);
    }
    assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
}

#[test]
fn a_crash_cluster_reads_from_one_replica_and_asks_others_when_it_is_mute() {
    let mut config = config(FaultModel::Crash, 3);
    config.unordered_reads = true;
    let mut rig = Rig::open(config);
    let read = rig
        .core
        .read(rig.now, bytes("r"), Consistency::Linearizable);
    rig.poll();
    assert_eq!(rig.take_sent()[0].0, Some(NodeId(0)), "the leader");
    rig.pass(Duration::from_millis(201));
    assert_eq!(rig.take_sent()[0].0, None);
    answer(&mut rig, 2, read, "R");
    assert_eq!(rig.take_done(), [(read, Ok(bytes("R")))]);
}

#[test]
fn votes_of_a_liar_who_floods_take_bounded_memory() {
    let mut rig = Rig::byzantine();
    rig.calls(2);
    let large = Bytes::from(vec![1; 1 << 20]);
    for round in 0..1000u64 {
        let lie = OperationResult::Ok(large.slice(..1 + (round as usize % 1000)));
        let first = OpNumber(round % 3);
        let results = vec![lie; 1 + round as usize % 3];
        rig.say(
            3,
            Reply::Results {
                session: SESSION,
                first,
                results,
            },
        );
        rig.say(
            3,
            Reply::Read {
                id: round,
                result: ok("lie"),
                at: SeqNo(1),
            },
        );
        rig.say(3, Reply::Opened(SessionId(round)));
    }
    assert_eq!(rig.take_done(), []);
    drop(rig.core.poll(rig.now));
    // All that is left of a thousand lies are digests: the frame they came in is held by nobody.
    assert!(large.is_unique());
    for replica in 0..2 {
        rig.results(replica, 1, &["A", "B"]);
    }
    assert_eq!(rig.take_done().len(), 2);
}
