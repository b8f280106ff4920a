//! What survives: rebuilding a replica from its records, and letting go of them at checkpoints.

use crate::amnesia::Amnesia;
use crate::config::RaftConfig;
use crate::election::{Ballot, Role};
use crate::log::Log;
use crate::message::{Entry, EntryId};
use crate::raft::{Cx, Raft};
use crate::reads::Reads;
use crate::record::{Hard, Record};
use atlas_common::{Lsn, SeqNo, Time, View};
use atlas_core::{Installed, Membership, Origin, RecoverError, Recovery};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The log as its records tell it.
#[derive(Default)]
struct Replayed {
    hard: Option<(Hard, Lsn)>,
    entries: BTreeMap<SeqNo, (Entry, Lsn)>,
}

impl Replayed {
    fn take(&mut self, lsn: Lsn, record: Record) {
        match record {
            Record::Hard(hard) => self.hard = Some((hard, lsn)),
            Record::Entries { first, entries } => {
                self.entries.split_off(&first);
                for (i, entry) in (0..).zip(entries) {
                    self.entries.insert(first.plus(i), (entry, lsn));
                }
            }
            Record::Installed { seq, term } => self.install((seq, term)),
        }
    }

    /// As [`Log::install`]; but the entry itself may have gone with an earlier compaction, which then
    /// vouches for what follows it.
    fn install(&mut self, (seq, term): EntryId) {
        let above = self.entries.split_off(&seq.next());
        let held = self.entries.get(&seq).map(|(entry, _)| entry.term == term);
        let compacted = self.entries.is_empty();
        self.entries.clear();
        if held.unwrap_or(compacted) {
            self.entries = above;
        }
    }
}

/// The entry that an installed state ends with.
fn base_of(installed: &Installed) -> Option<EntryId> {
    let term = installed.frontier.as_ref().try_into().ok()?;
    Some((installed.seq(), View(u64::from_le_bytes(term))))
}

impl Raft {
    pub(crate) fn rebuild(
        config: RaftConfig,
        membership: Arc<Membership>,
        recovery: Recovery<Self>,
    ) -> Result<Self, RecoverError> {
        let me = recovery.me;
        membership.member(me).ok_or(RecoverError::NotAMember(me))?;
        let wrong = |at: String, what: &str| RecoverError::Records {
            at,
            what: what.to_owned(),
        };
        let base = match &recovery.installed {
            None => (SeqNo::ZERO, View::ZERO),
            Some(installed) => base_of(installed).ok_or_else(|| {
                wrong(
                    format!("checkpoint {}", installed.seq()),
                    "its frontier is no term",
                )
            })?,
        };
        let mut replayed = Replayed::default();
        for (lsn, record) in recovery.records {
            replayed.take(lsn, record);
        }
        replayed.install(base);
        let mut log = Log::new(base);
        // Entries went because a newer checkpoint held them, and it was passed over, being damaged. What
        // lies above them was acknowledged too, and cannot be kept without them: a log that is lost.
        let mut lost = false;
        for (seq, (entry, lsn)) in replayed.entries {
            if seq != log.last().next() {
                lost = true;
                break;
            }
            if entry.term < log.last_id().1 {
                let what = "its term is below that of the entry before it";
                return Err(wrong(format!("entry {seq}"), what));
            }
            log.append(entry, lsn);
        }
        let forgot = (lost || recovery.origin == Origin::Amnesiac) && membership.is_voter(me);
        let fresh = Hard {
            mute: forgot,
            ..Hard::default()
        };
        let (hard, hard_lsn) = replayed.hard.unwrap_or((fresh, Lsn::ZERO));
        // A checkpoint can be durable when the record of its term is not yet.
        let term = hard.term.max(log.last_id().1);
        let voted = hard.voted.filter(|_| term == hard.term);
        // Term and vote are not lost with the entries.
        let mute = hard.mute || forgot;
        #[cfg(feature = "seeded-bugs")]
        let mute = mute && config.bug != Some(crate::bugs::SeededBug::ForgetfulVoter);
        let amnesia = mute.then(Amnesia::default);
        let sticks = config.settings.lease.is_some() && recovery.origin != Origin::Genesis;
        let sticks_until = if sticks { Time::NEVER } else { Time::ZERO };
        let durable = log.last();
        Ok(Self {
            me,
            config,
            membership,
            role: Role::Follower,
            term,
            voted,
            leader: None,
            told: None,
            last_led: View::ZERO,
            terms_led: 0,
            log,
            durable_lsn: Lsn::ZERO,
            durable,
            hard_lsn,
            commit: base.0,
            low: base.0,
            decided_at: Time::ZERO,
            waiting: None,
            amnesia,
            verified: base.0,
            round_seen: 0,
            sticks_until,
            suspects: false,
            cramped: false,
            waits_since: Time::ZERO,
            patience: Duration::ZERO,
            ballot: Ballot::default(),
            peers: Vec::new(),
            own_first: SeqNo::ZERO,
            round: 0,
            rounds: VecDeque::new(),
            confirmed: 0,
            leased_until: Time::ZERO,
            lease_void: false,
            transfer: None,
            reads: Reads::default(),
        })
    }

    pub(crate) fn on_start(&mut self, cx: &mut Cx<'_>) {
        self.durable_lsn = cx.last_lsn();
        self.decided_at = cx.now();
        self.reads.number = cx.rng().next_u64();
        if self.sticks_until == Time::NEVER {
            // A leader's lease may rest on what this replica heard before it restarted.
            self.sticks_until = cx.now().after(self.config.settings.election_min);
        }
        // Before anything else: a checkpoint may have outlived a log that was lost.
        self.start_asking(cx);
        let (seq, term) = self.log.base();
        if seq > SeqNo::ZERO {
            // A crash may have lost the record of an installation and left the state: what follows in
            // the log must not be taken for what followed on the entries before it.
            cx.persist(Record::Installed { seq, term });
        }
        self.tell_leader(cx);
        self.wait_for_leader(cx);
        if self.membership.quorums().n() == 1 {
            self.on_suspect(cx); // nobody else can lead
        }
    }

    /// Section 5.1: what a checkpoint holds need not be in the log.
    pub(crate) fn on_checkpointed(&mut self, seq: SeqNo, cx: &mut Cx<'_>) {
        if seq <= self.low {
            return;
        }
        if seq > self.commit {
            // Not this replica's own checkpoint, whatever the driver says: it has to be fetched.
            return cx.fetch_state(seq);
        }
        self.low = seq;
        let keep_above = if self.leads() {
            self.still_needed(seq, cx)
        } else {
            seq
        };
        self.log.drop_to(keep_above);
        // The checkpoint is durable, whatever the log's records of it are.
        self.durable = self.durable.max(seq);
        self.raise_peers_to_base();
        self.compact(cx);
        self.tell_room(cx);
        self.ask_for_batch(cx);
    }

    /// Section 5.1: a state from peers takes the place of the log.
    pub(crate) fn on_installed(&mut self, installed: &Installed, cx: &mut Cx<'_>) {
        let seq = installed.seq();
        if seq <= self.low {
            return;
        }
        let known = base_of(installed);
        let term = known.map_or(View::ZERO, |(_, term)| term);
        if known.is_none() && self.is_voter() {
            // It cannot tell which logs are as up-to-date as its own: no votes until it can.
            self.amnesia = Some(Amnesia::default());
            self.start_asking(cx);
        }
        if term > self.term {
            self.enter_term(term, cx);
        }
        self.low = seq;
        if seq < self.commit {
            self.log.drop_to(seq);
        } else {
            if !self.log.install((seq, term)) {
                self.durable = seq;
                if self.leads() {
                    self.follow(None, cx); // a leader has all that is committed; this one does not
                }
            }
            cx.persist(Record::Installed { seq, term });
            self.commit = seq;
        }
        self.durable = self.durable.max(seq);
        self.verified = self.verified.max(self.commit);
        self.decided_at = cx.now();
        self.raise_peers_to_base();
        self.compact(cx);
        self.tell_room(cx);
        self.try_to_vote_again(cx);
        self.ask_for_batch(cx);
    }

    /// Writes term and vote again, so that what came before can go.
    fn compact(&mut self, cx: &mut Cx<'_>) {
        self.keep_hard_state(cx);
        let first = self.log.first_lsn();
        cx.compact(first.map_or(self.hard_lsn, |first| first.min(self.hard_lsn)));
    }
}
