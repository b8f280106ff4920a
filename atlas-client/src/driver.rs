//! The client's task: drives the core with the network, the clock and the callers.

use crate::core::{CallId, ClientCore, Output};
use crate::decode;
use crate::handover::{Answer, Kind, NewCall, Phase, Shared};
use crate::status::StatusRounds;
use atlas_common::{NodeId, Time, wire};
use atlas_communication::{ClientNetwork, Inbound};
use atlas_smr_core::client_message::{ClientMessage, Reply, ReplyMessage};
use bytes::Bytes;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// The most reads of the network taken in before anything else is done.
const READS_PER_TURN: usize = 64;
/// How often the task lets others run after it answered calls, while more calls keep coming.
const YIELDS_MAX: usize = 3;
/// How often the connections are looked at while calls are outstanding.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// What an encoded message has besides its body, at most.
const MESSAGE_OVERHEAD_BYTES: usize = 32;

/// Numbers in sequence, spread by a multiplication; nobody else chooses them.
#[derive(Debug, Default)]
struct CallHasher(u64);

impl Hasher for CallHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

pub(crate) struct Driver {
    core: ClientCore,
    network: Arc<dyn ClientNetwork>,
    inbox: mpsc::Receiver<Inbound>,
    shared: Arc<Shared>,
    voters: usize,
    reply_bytes_max: usize,
    answers: HashMap<CallId, Answer, BuildHasherDefault<CallHasher>>,
    /// Taken from the callers' queue; empty between turns.
    calls: Vec<NewCall>,
    status: StatusRounds,
    up: Vec<bool>,
    look_at: Time,
    started: Instant,
}

impl Driver {
    pub(crate) fn new(
        mut core: ClientCore,
        network: Arc<dyn ClientNetwork>,
        inbox: mpsc::Receiver<Inbound>,
        shared: Arc<Shared>,
        (voters, reply_bytes_max): (usize, usize),
    ) -> Self {
        core.connect();
        Self {
            core,
            network,
            inbox,
            shared,
            voters,
            reply_bytes_max,
            answers: HashMap::default(),
            calls: Vec::new(),
            status: StatusRounds::default(),
            // A connection that never stood is not lost: frames wait for it.
            up: vec![false; voters],
            look_at: Time::ZERO,
            started: Instant::now(),
        }
    }

    /// Runs until the client is closed or the network ends.
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut reads = Vec::with_capacity(READS_PER_TURN);
        let sleep = sleep_until(self.started);
        tokio::pin!(sleep);
        let mut armed = Time::NEVER;
        self.flush();
        loop {
            let wake = self.wake_at();
            if wake < armed {
                armed = wake;
                sleep.as_mut().reset(self.started + armed.since(Time::ZERO));
            }
            tokio::select! {
                biased;
                count = self.inbox.recv_many(&mut reads, READS_PER_TURN) => if count == 0 { return },
                () = shared.work() => {}
                () = &mut sleep, if armed < Time::NEVER => armed = Time::NEVER,
            }
            self.receive(&mut reads);
            self.on_time();
            self.gather().await;
            if !self.take_calls() {
                return;
            }
            if shared.take_session_wanted() {
                self.core.connect();
            }
            self.flush();
            self.ask_status();
        }
    }

    fn now(&self) -> Time {
        Time::ZERO.after(self.started.elapsed())
    }

    fn wake_at(&self) -> Time {
        let look_at = if self.core.outstanding() > 0 {
            self.look_at
        } else {
            Time::NEVER
        };
        self.core.next_deadline().min(look_at)
    }

    fn receive(&mut self, reads: &mut Vec<Inbound>) {
        let now = self.now();
        for read in reads.drain(..) {
            for frame in &read.frames {
                match decode::reply(frame, self.reply_bytes_max) {
                    Ok(ReplyMessage {
                        reply: Reply::Status { id, report },
                        ..
                    }) => {
                        self.status.answered(read.from, id, report);
                    }
                    Ok(message) => self.core.on_message(now, read.from, message),
                    Err(error) => tracing::debug!(replica = %read.from, %error, "no reply"),
                }
            }
        }
    }

    fn on_time(&mut self) {
        let now = self.now();
        if now >= self.look_at {
            self.look_at = now.after(LOOK_INTERVAL);
            self.look_at_connections();
        }
        if now >= self.core.next_deadline() {
            self.core.on_timeout(now);
        }
    }

    fn look_at_connections(&mut self) {
        let connected = self.network.connected();
        for (index, was_up) in self.up.iter_mut().enumerate() {
            let replica = NodeId(index as u32);
            let is_up = connected.contains(&replica);
            match (*was_up, is_up) {
                (false, true) => self.core.connected(replica),
                (true, false) => self.core.disconnected(replica),
                _ => {}
            }
            *was_up = is_up;
        }
    }

    /// Answers calls, then lets those who were answered call again before the next bundle is made, so
    /// that they share it.
    async fn gather(&mut self) {
        let answered = self.deliver();
        let mut waiting = 0;
        for _ in 0..if answered > 0 { YIELDS_MAX } else { 0 } {
            yield_now().await;
            let before = std::mem::replace(&mut waiting, self.shared.len());
            if waiting == before || waiting >= answered {
                break;
            }
        }
    }

    /// Hands out what the inputs so far gave. How many calls were answered.
    fn deliver(&mut self) -> usize {
        let mut answered = 0;
        while let Some(output) = self.core.next_output() {
            answered += usize::from(matches!(output, Output::Completed { .. }));
            self.carry_out(output);
        }
        answered
    }

    /// Takes the callers' calls into the core. False when the client is to end.
    fn take_calls(&mut self) -> bool {
        let mut calls = std::mem::take(&mut self.calls);
        let open = self.shared.take(&mut calls);
        let now = self.now();
        for call in calls.drain(..) {
            // Its caller has gone, and nothing was sent yet.
            if call.reply.is_closed() {
                continue;
            }
            let deadline = call.timeout.map(|timeout| now.after(timeout));
            let id = match (call.kind, deadline) {
                (Kind::Ordered, None) => self.core.call(now, call.operation),
                (Kind::Ordered, Some(deadline)) => self.core.call_until(deadline, call.operation),
                (Kind::Read(consistency), None) => self.core.read(now, call.operation, consistency),
                (Kind::Read(consistency), Some(deadline)) => {
                    self.core
                        .read_until(now, deadline, call.operation, consistency)
                }
            };
            self.answers.insert(id, call.reply);
        }
        self.calls = calls;
        open
    }

    fn flush(&mut self) {
        let now = self.now();
        while let Some(output) = self.core.poll(now) {
            self.carry_out(output);
        }
        let phase = if self.core.session().is_some() {
            Phase::Open
        } else {
            Phase::Opening
        };
        self.enter(phase);
    }

    fn ask_status(&mut self) {
        for answers in self.shared.take_status() {
            let question = ClientMessage::Status(self.status.ask(answers));
            if let Some(frame) = encoded(&question) {
                self.network.broadcast(frame);
            }
        }
    }

    fn enter(&self, phase: Phase) {
        self.shared
            .phase
            .send_if_modified(|current| std::mem::replace(current, phase) != phase);
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { to, message } => {
                if let Some(frame) = encoded(&message) {
                    self.network.send(to, frame);
                }
            }
            Output::SendAll { message } => {
                if let Some(frame) = encoded(&message) {
                    for replica in 0..self.voters {
                        self.network.send(NodeId(replica as u32), frame.clone());
                    }
                }
            }
            Output::Completed { call, result } => {
                if let Some(answer) = self.answers.remove(&call) {
                    // Whoever does not wait any longer does not mind.
                    drop(answer.send(result.map(decode::detached)));
                }
            }
        }
    }
}

/// However the task ends (the client closed, the network down, the runtime gone), every call is told
/// what is known of it.
impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.close();
        self.core.close();
        self.take_calls();
        self.deliver();
        self.network.shutdown();
        self.enter(Phase::Closed);
    }
}

fn encoded(message: &ClientMessage) -> Option<Bytes> {
    let body = match message {
        ClientMessage::Bundle(bundle) => bundle.len(),
        ClientMessage::Read(read) => read.operation.len(),
        ClientMessage::Status(_) => 0,
    };
    let mut frame = Vec::with_capacity(body + MESSAGE_OVERHEAD_BYTES);
    match wire::encode_into(message, &mut frame) {
        Ok(()) => Some(Bytes::from(frame)),
        Err(error) => {
            tracing::error!(%error, "a message could not be encoded");
            None
        }
    }
}
