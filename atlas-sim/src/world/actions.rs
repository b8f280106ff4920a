//! Carrying out what the plan has in store.

use super::World;
use crate::faults::FaultKind;
use crate::plan::{Action, CrashKind, Target};
use crate::protocol::SimProtocol;
use atlas_common::{NodeId, View};
use std::collections::BTreeMap;

impl<P: SimProtocol> World<P> {
    pub(super) fn act(&mut self, index: usize) {
        let (_, action) = self.shared.plan.schedule[index].clone();
        self.shared.line("", format_args!("{action:?}"));
        match action {
            Action::Quality(quality) => self.shared.network.set_quality(quality),
            Action::Partition(groups) => self.shared.network.partition(&groups),
            Action::Cut(cuts) => {
                for (from, to) in cuts {
                    self.shared.network.set_cut(from, to, true);
                }
            }
            Action::Isolate {
                target,
                still_hears,
            } => self.isolate(target, still_hears),
            Action::Mend => self.shared.network.mend(),
            Action::Crash(target, kind) => self.crash(target, kind),
            Action::CrashAll(kind) => {
                for node in &mut self.nodes {
                    node.crash(kind, &mut self.shared);
                }
            }
            Action::Restart(replica) => self.nodes[replica.index()].start(&mut self.shared),
            Action::RestartAll => self.restart_all(),
            Action::Pause(target) => {
                let target = self.find(target);
                if self.nodes[target].pause() {
                    self.shared.counts.count(FaultKind::Pause);
                }
            }
            Action::ResumeAll => self.resume_all(),
            Action::SlowDisk(replica, factor) => {
                self.nodes[replica.index()].slowness = factor.max(1);
                if factor > 1 {
                    self.shared.counts.count(FaultKind::SlowDisk);
                }
            }
            Action::DiskFault(target, fault) => {
                let target = self.find(target);
                self.nodes[target].break_disk(fault);
            }
            Action::SetWall(replica, ahead_ms) => {
                self.shared.counts.count(FaultKind::ClockJump);
                self.nodes[replica.index()].set_wall(ahead_ms);
            }
            Action::Suspect => {
                self.shared.counts.count(FaultKind::Suspicion);
                for node in &mut self.nodes {
                    node.suspect(&mut self.shared);
                }
            }
            Action::DamageParts(target) => {
                let target = self.find(target);
                self.nodes[target].damage_parts();
            }
            Action::Corrupt(target) => {
                let target = self.find(target);
                self.nodes[target].corrupt(&mut self.shared);
            }
            Action::Heal => self.heal(),
        }
    }

    fn crash(&mut self, target: Target, kind: CrashKind) {
        let target = self.find(target);
        self.nodes[target].crash(kind, &mut self.shared);
    }

    fn restart_all(&mut self) {
        for node in &mut self.nodes {
            node.start(&mut self.shared);
        }
    }

    fn resume_all(&mut self) {
        for node in &mut self.nodes {
            node.resume(&mut self.shared);
        }
    }

    fn isolate(&mut self, target: Target, still_hears: bool) {
        let target = self.find(target);
        for other in (0..self.nodes.len()).filter(|other| *other != target) {
            self.shared.network.set_cut(target, other, true);
            if !still_hears {
                self.shared.network.set_cut(other, target, true);
            }
        }
    }

    fn heal(&mut self) {
        let healed = self.shared.plan.healed;
        self.shared.network.mend();
        self.shared.network.set_quality(healed);
        for node in &mut self.nodes {
            node.slowness = 1;
            node.mend_disk();
        }
        self.resume_all();
        self.restart_all();
    }

    /// The leader is whom most correct replicas take for it.
    fn find(&self, target: Target) -> usize {
        let leader = match target {
            Target::Replica(replica) => return replica.index(),
            Target::Leader => {
                let mut votes: BTreeMap<(usize, View, NodeId), ()> = BTreeMap::new();
                let leaders = || {
                    let correct = self.nodes.iter().filter(|node| node.is_correct());
                    correct.filter_map(|node| node.leader())
                };
                for (view, leader) in leaders() {
                    let count = leaders().filter(|other| *other == (view, leader)).count();
                    votes.insert((count, view, leader), ());
                }
                // Where nobody leads, anybody will do: one after the other.
                let anybody = NodeId((self.events % self.nodes.len() as u64) as u32);
                votes
                    .pop_last()
                    .map_or(anybody, |((_, _, leader), ())| leader)
            }
        };
        leader.index()
    }
}
