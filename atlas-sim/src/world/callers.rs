//! The clients' side of a run: waking them, and carrying what they say.

use super::World;
use crate::clients::{BAD_PAUSE, Sending};
use crate::protocol::SimProtocol;
use crate::shared::Event;
use atlas_common::{ClientId, NodeId, Time};
use atlas_smr_core::bundle::RequestBundle;
use atlas_smr_core::client_message::{ClientMessage, ReplyMessage};

impl<P: SimProtocol> World<P> {
    pub(super) fn on_reply(&mut self, client: usize, from: NodeId, reply: ReplyMessage) {
        let now = self.shared.now();
        let mut out = Vec::new();
        if let Some(correct) = self.clients.get_mut(client) {
            let history = &mut self.shared.oracles.history;
            let before = correct.ended();
            let result = correct.on_reply(now, from, reply, history, &mut out);
            let ended = correct.ended() - before;
            self.shared.note(result);
            if ended > 0 {
                let line = format_args!("has {ended} answers");
                self.shared.line(format!("c{client}"), line);
            }
            self.send_all(client, out);
            self.schedule_client(client);
        } else if let Some(bad) = self.bad.get_mut(client - self.clients.len()) {
            bad.on_reply(&reply);
        }
    }

    pub(super) fn wake(&mut self, client: usize) {
        let now = self.shared.now();
        if self.wakes[client] > now {
            return;
        }
        self.wakes[client] = Time::NEVER;
        let mut out = Vec::new();
        let history = &mut self.shared.oracles.history;
        let before = self.clients[client].ended();
        let result = self.clients[client].on_wake(now, history, &mut out);
        let ended = self.clients[client].ended() - before;
        self.shared.note(result);
        if ended > 0 {
            self.shared
                .line(format!("c{client}"), format_args!("gives up {ended} calls"));
        }
        self.send_all(client, out);
        self.schedule_client(client);
    }

    /// Makes sure that the client is woken when it wants to be.
    pub(super) fn schedule_client(&mut self, client: usize) {
        let at = self.clients[client].wake_at();
        if at < self.wakes[client] {
            let at = at.max(self.shared.now());
            self.wakes[client] = at;
            self.shared.queue.at(at, Event::Wake { client });
        }
    }

    fn send_all(&mut self, client: usize, out: Vec<Sending>) {
        let id = self.clients[client].id();
        for sending in out {
            self.tell(client, &sending);
            match sending {
                Sending::One(to, message) => self.send(client, id, to, message),
                Sending::All(message) => {
                    for to in (0..self.nodes.len() as u32).map(NodeId) {
                        self.send(client, id, to, message.clone());
                    }
                }
            }
        }
    }

    /// What a client sends, for transcripts.
    fn tell(&mut self, client: usize, sending: &Sending) {
        if !self.shared.trace.is_readable() {
            return;
        }
        let (to, message) = match sending {
            Sending::One(to, message) => (format!("n{to}"), message),
            Sending::All(message) => ("all".to_owned(), message),
        };
        let ClientMessage::Bundle(raw) = message else {
            return;
        };
        let (genesis, limits) = (self.shared.membership.genesis(), &self.shared.plan.limits);
        if let Ok(bundle) = RequestBundle::decode(raw.clone(), genesis, limits) {
            self.shared
                .line(format!("c{client}"), format_args!("→ {to:<4} {bundle:?}"));
        }
    }

    fn send(&mut self, client: usize, id: ClientId, to: NodeId, message: ClientMessage) {
        if let ClientMessage::Bundle(raw) = &message {
            self.shared.oracles.validity.sent(raw);
        }
        let end = self.shared.plan.client_end(client);
        self.shared.transmit(end, to.index(), || Event::Request {
            client,
            id,
            to,
            message: message.clone(),
        });
    }

    pub(super) fn mischief(&mut self, index: usize) {
        let client = self.clients.len() + index;
        let sendings = self.bad[index].act(&mut self.shared.counts);
        let id = self.bad[index].id();
        // It connects under whatever name it uses just now.
        self.shared.clients.insert(id, client);
        for (to, message) in sendings {
            self.send(client, id, to, message);
        }
        self.shared
            .queue
            .after(BAD_PAUSE, Event::Mischief { index });
    }
}
