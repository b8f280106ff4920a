//! What a replica sends and receives.

use super::{Name, Node};
use crate::adversary::{self, Packet, Power};
use crate::faults::FaultKind;
use crate::protocol::SimProtocol;
use crate::shared::{Event, Shared};
use atlas_common::{ClientId, NodeId, wire};
use atlas_core::Reject;
use atlas_smr_core::client_message::{ClientMessage, LeaderHint, Reply, ReplyMessage};
use atlas_smr_core::core::CoreInput;
use atlas_smr_core::message::SystemMessage;
use atlas_smr_core::transfer::LogTransferMessage;
use bytes::Bytes;

impl<P: SimProtocol> Node<P> {
    pub(super) fn broadcast(&mut self, message: SystemMessage<P>, shared: &mut Shared<P>) {
        self.say(format_args!("all"), &message, shared);
        self.check_votes(None, &message, shared);
        let me = self.id;
        let others = (0..shared.plan.replicas as u32)
            .map(NodeId)
            .filter(|to| *to != me);
        for to in others {
            self.send_one(to, message.clone(), shared);
        }
    }

    pub(super) fn send(&mut self, to: NodeId, message: SystemMessage<P>, shared: &mut Shared<P>) {
        self.say(format_args!("n{to}"), &message, shared);
        self.check_votes(Some(to), &message, shared);
        self.send_one(to, message, shared);
    }

    fn check_votes(&self, to: Option<NodeId>, message: &SystemMessage<P>, shared: &mut Shared<P>) {
        let SystemMessage::Protocol(message) = message else {
            return;
        };
        if self.is_correct() {
            for vote in P::votes(message, self.id, to, &shared.membership) {
                let same = shared.oracles.votes.said(self.id, self.life, vote);
                shared.note(same);
            }
        }
    }

    fn say(&self, to: std::fmt::Arguments<'_>, message: &SystemMessage<P>, shared: &mut Shared<P>) {
        if shared.trace.is_readable() {
            let what = describe(message);
            shared.line(Name(self.id), format_args!("→ {to} {what}"));
        }
    }

    fn send_one(&mut self, to: NodeId, message: SystemMessage<P>, shared: &mut Shared<P>) {
        if self.adversary.is_none() {
            self.transmit(to, Packet::Message(message), shared);
        } else {
            self.with_adversary(shared, |adversary, power| {
                adversary.on_send(to, message, power)
            });
        }
    }

    /// Lets the adversary act, and sends what it wants sent.
    fn with_adversary<T>(
        &mut self,
        shared: &mut Shared<P>,
        act: impl FnOnce(&mut dyn adversary::Adversary<P>, &mut Power<'_, P>) -> T,
    ) -> Option<T> {
        let adversary = self.adversary.as_deref_mut()?;
        let mut out = Vec::new();
        let now = shared.queue.now();
        let leader = self.running.as_ref().map(|running| running.core.leader());
        let wall = now.as_nanos() / 1_000_000 + self.clock.wall_ahead_ms;
        let mut power = Power {
            me: self.id,
            signer: &*self.signer,
            membership: &shared.membership,
            limits: &shared.plan.limits,
            leader: leader.unwrap_or_default(),
            patience: shared.plan.patience,
            now,
            wall: atlas_common::AgreedTime::from_unix_millis(wall),
            rng: &mut self.rng,
            counts: &mut shared.counts,
            out: &mut out,
        };
        let result = act(adversary, &mut power);
        for (delay, to, packet) in out {
            if delay.is_zero() {
                self.transmit(to, packet, shared);
            } else {
                // Held back here, then sent; a link's own delay is small against it.
                let (from, packet) = (self.id, Box::new(packet));
                shared
                    .queue
                    .after(delay, Event::Packet { from, to, packet });
            }
        }
        Some(result)
    }

    fn transmit(&mut self, to: NodeId, packet: Packet<P>, shared: &mut Shared<P>) {
        let from = self.id;
        let packet = match packet {
            Packet::Message(message) if shared.plan.through_codec => encode(&message),
            other => other,
        };
        shared.transmit(from.index(), to.index(), || Event::Packet {
            from,
            to,
            packet: Box::new(packet.clone()),
        });
    }

    /// A packet arrives.
    pub(super) fn on_packet(&mut self, from: NodeId, packet: Packet<P>, shared: &mut Shared<P>) {
        if self.running.is_none() {
            shared.counts.count(FaultKind::Down);
            return;
        }
        let message = match packet {
            Packet::Message(message) => message,
            Packet::Raw(bytes) => match wire::decode(&bytes, shared.plan.limits.frame_bytes_max) {
                Ok(message) => message,
                Err(_undecodable) => return self.reject(Reject::Malformed, shared),
            },
        };
        shared.trace.mix_name(message.kind());
        let passes = self.with_adversary(shared, |adversary, power| {
            adversary.on_receive(from, &message, power)
        });
        if passes == Some(false) {
            return;
        }
        let Some(running) = &self.running else { return };
        if let SystemMessage::LogTransfer(LogTransferMessage::Decisions {
            first, decisions, ..
        }) = &message
        {
            let decided = running.core.status().protocol.decided;
            let known = decided.next().since(*first).min(decisions.len() as u64);
            shared.counts.add(FaultKind::TwoPaths, known);
        }
        match running.checker.check(from, message) {
            Ok(message) => self.input(CoreInput::Peer { from, message }, shared),
            Err(reason) => {
                shared.line(
                    Name(self.id),
                    format_args!("refuses a message of n{from}: {reason}"),
                );
                self.reject(reason, shared);
            }
        }
    }

    /// A client's message arrives.
    pub(super) fn on_request(
        &mut self,
        client: usize,
        id: ClientId,
        message: ClientMessage,
        shared: &mut Shared<P>,
    ) {
        if self.running.is_none() {
            shared.counts.count(FaultKind::Down);
            return;
        }
        shared.trace.mix(client as u64);
        let raw = match message {
            ClientMessage::Bundle(raw) => raw,
            ClientMessage::Read(read) => return self.on_read(id, read, shared),
            ClientMessage::Status(_) => return,
        };
        let passes = self.with_adversary(shared, |adversary, power| {
            adversary.on_request(client, &raw, power)
        });
        if passes == Some(false) {
            return;
        }
        let Some(running) = &self.running else { return };
        match running.checker.bundles().check_client(&id, raw) {
            Ok(bundle) => self.input(CoreInput::Requests(vec![bundle]), shared),
            Err(reason) => self.reject(reason, shared),
        }
    }

    fn reject(&mut self, reason: Reject, shared: &mut Shared<P>) {
        if let Some(running) = &mut self.running {
            running.core.count_rejected(reason);
        }
        shared.trace.mix_name(reason.name());
    }

    /// Answers a client.
    pub(super) fn reply(&mut self, to: ClientId, reply: Reply, shared: &mut Shared<P>) {
        let Some(running) = &self.running else { return };
        let Some(&client) = shared.clients.get(&to) else {
            return;
        };
        let (view, leader) = running.core.leader();
        let mut message = ReplyMessage {
            hint: LeaderHint { view, leader },
            reply,
        };
        if self.adversary.is_some() {
            let changed = self
                .with_adversary(shared, |adversary, power| {
                    adversary.on_reply(message, power)
                })
                .flatten();
            let Some(changed) = changed else { return };
            message = changed;
        }
        let from = self.id;
        shared.transmit(from.index(), shared.plan.client_end(client), || {
            Event::Reply {
                client,
                from,
                reply: message.clone(),
            }
        });
    }

    /// The adversary acts of its own accord.
    pub(super) fn on_tick(&mut self, shared: &mut Shared<P>) {
        if self.running.is_some() {
            self.with_adversary(shared, |adversary, power| adversary.on_tick(power));
        }
        shared
            .queue
            .after(adversary::TICK, Event::Tick { node: self.id });
    }
}

fn encode<P: SimProtocol>(message: &SystemMessage<P>) -> Packet<P> {
    wire::encode(message).map_or_else(
        |_| Packet::Raw(Bytes::new()),
        |bytes| Packet::Raw(Bytes::from(bytes)),
    )
}

fn describe<P: SimProtocol>(message: &SystemMessage<P>) -> String {
    match message {
        SystemMessage::Protocol(message) => P::describe(message),
        SystemMessage::ForwardedRequests(bundles) => format!("forwards {} bundles", bundles.len()),
        SystemMessage::FetchBody(digest) => format!("asks for body {digest:?}"),
        SystemMessage::Body(batch) => format!("body {:?}", batch.digest()),
        SystemMessage::CheckpointVote { id, .. } => format!("checkpoint {} {:?}", id.seq, id.state),
        SystemMessage::CheckpointCertificate(certificate) => {
            format!("certificate of checkpoint {}", certificate.id.seq)
        }
        SystemMessage::LogTransfer(_) | SystemMessage::StateTransfer(_) => {
            let text = format!("{message:?}");
            text.chars().take(100).collect()
        }
    }
}
