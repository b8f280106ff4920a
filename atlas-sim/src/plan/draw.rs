//! Drawing a plan from a seed.

use super::{Action, BadClient, ClientPlan, CrashKind, Plan, Target};
use crate::network::Quality;
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::rng::SeededRng;
use atlas_common::{NodeId, Time};
use std::time::Duration;

/// What is fixed before the draw.
#[derive(Clone, Copy, Debug)]
pub struct Choices<'a> {
    /// What faults the protocol survives.
    pub model: FaultModel,
    /// The adversaries that are known.
    pub adversaries: &'a [&'static str],
    /// The number of replicas, where it is not to be drawn.
    pub replicas: Option<usize>,
    /// A deliberate defect.
    pub bug: Option<&'static str>,
}

/// Sizes of clusters, as often as they are to be drawn: a slot costs the square of it.
const SIZES: [usize; 16] = [4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 6, 6, 7, 7, 10];
/// The same where replicas only crash.
const CRASH_SIZES: [usize; 16] = [3, 3, 3, 3, 3, 3, 3, 3, 5, 5, 5, 5, 4, 4, 7, 1];
/// The adversary that proposes as late as its backups bear.
const SLOW_LEADER: &str = "slow-leader";
/// One seed in so many runs real signatures.
const REAL_SIGNATURES_ONE_IN: u64 = 96;
/// One seed in so many encodes and decodes every message.
const THROUGH_CODEC_ONE_IN: u64 = 16;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(seed: u64, choices: &Choices<'_>) -> Self {
        let mut rng = SeededRng::new(seed ^ 0x706c_616e);
        let (sizes, usual) = match choices.model {
            FaultModel::Byzantine => (&SIZES, 4),
            FaultModel::Crash => (&CRASH_SIZES, 3),
        };
        let drawn = rng.pick(sizes).copied().unwrap_or(usual);
        let replicas = choices.replicas.unwrap_or(drawn);
        let real_signatures = rng.below(REAL_SIGNATURES_ONE_IN) == 0;
        // A large cluster would take seconds with them.
        let few = choices.replicas.is_none() && real_signatures;
        let mut plan = Self::calm("random", if few { usual } else { replicas }, seed);
        plan.real_signatures = real_signatures;
        plan.bug = choices.bug;
        plan.draw_cluster(&mut rng);
        plan.draw_adversaries(choices, &mut rng);
        let faults_end = rng.between(2500, 6000);
        plan.draw_clients(faults_end, &mut rng);
        plan.draw_faults(choices.model, faults_end, &mut rng);
        plan.draw_execution(&mut SeededRng::new(seed ^ 0x6578_6563));
        plan.allow_for_slow_leaders();
        plan.heal_at(faults_end)
    }

    fn draw_cluster(&mut self, rng: &mut SeededRng) {
        self.limits = Self::small_limits(rng.pick(&[8, 8, 16, 32]).copied().unwrap_or(8));
        self.limits.window = self.limits.checkpoint_interval * rng.between(2, 4);
        self.limits.in_flight_max = rng.between(1, 12) as usize;
        self.through_codec = rng.below(THROUGH_CODEC_ONE_IN) == 0;
        self.patience = millis(rng.between(150, 500));
        self.keys = rng.between(2, 8);
        self.healed = Quality {
            delay_mean: micros(rng.between(50, 3000)),
            ..Quality::good()
        };
        self.quality = self.healed;
        self.sync = (micros(rng.between(20, 500)), micros(rng.between(50, 4000)));
        if rng.chance(0.3) {
            self.grouping = micros(rng.between(10, 500));
        }
        self.execution = micros(rng.between(5, 1000));
        if rng.chance(0.3) {
            for clock in &mut self.clocks {
                clock.rate_ppm = rng.between(750_000, 1_300_000);
                clock.wall_ahead_ms = rng.between(590_000, 610_000);
            }
        }
    }

    /// A leader that stays just below its backups' patience is not replaced, and may take all of it for
    /// each slot; a caller with one call outstanding needs a slot for each.
    fn allow_for_slow_leaders(&mut self) {
        let slow = |(_, name): &(NodeId, &str)| *name == SLOW_LEADER;
        let longest = self.clients.iter().map(|client| client.operations).max();
        if self.adversaries.iter().any(slow) {
            let slots = u32::try_from(longest.unwrap_or(0)).unwrap_or(u32::MAX);
            self.answered_within += self.patience * slots;
        }
    }

    /// From a generator of its own: what is drawn otherwise stays as it is.
    fn draw_execution(&mut self, rng: &mut SeededRng) {
        self.parallel = rng.chance(0.5);
        self.quorum_reads = rng.chance(0.3);
        if rng.chance(0.5) {
            self.reading = micros(rng.between(10, 5000));
        }
        if rng.chance(0.2) {
            self.banking.1 = 0.2;
        }
        if rng.chance(0.7) {
            self.pack_bytes = rng.between(500, 4000);
        }
    }

    fn draw_adversaries(&mut self, choices: &Choices<'_>, rng: &mut SeededRng) {
        if choices.model == FaultModel::Crash || choices.adversaries.is_empty() {
            return;
        }
        let f = Quorums::new(choices.model, self.replicas).map_or(0, |quorums| quorums.faults());
        if f == 0 || rng.chance(0.35) {
            return;
        }
        let count = rng.between(1, f as u64) as usize;
        let mut replicas: Vec<u32> = (0..self.replicas as u32).collect();
        rng.shuffle(&mut replicas);
        // Half the time the first leaders are among them: as backups they can do less.
        if rng.chance(0.5) {
            replicas.sort_unstable();
        }
        for replica in replicas.into_iter().take(count) {
            if let Some(name) = rng.pick(choices.adversaries) {
                self.adversaries.push((NodeId(replica), name));
            }
        }
    }

    fn draw_clients(&mut self, faults_end: u64, rng: &mut SeededRng) {
        let count = rng.between(2, 5);
        let operations = rng.between(205, 280).div_ceil(count);
        let burst = rng.between(1, 10);
        // Spread over the time in which faults happen.
        let pause = millis((faults_end + 500) * burst / operations);
        let timeout = rng.chance(0.15).then(|| millis(rng.between(1500, 4000)));
        self.clients = (0..count)
            .map(|_| ClientPlan {
                operations,
                outstanding: (burst + rng.below(8)) as usize,
                burst,
                pause,
                timeout,
            })
            .collect();
        let kinds = [
            BadClient::Equivocates,
            BadClient::Disorderly,
            BadClient::Garbage,
        ];
        if rng.chance(0.3) {
            for _ in 0..rng.between(1, 2) {
                self.bad_clients.extend(rng.pick(&kinds));
            }
        }
    }

    fn draw_faults(&mut self, model: FaultModel, end: u64, rng: &mut SeededRng) {
        if rng.chance(0.7) {
            let quality = self.draw_quality(rng);
            let from = rng.below(end / 2);
            self.schedule
                .push((Time::from_millis(from), Action::Quality(quality)));
        }
        for _ in 0..rng.between(1, 5) {
            let from = rng.between(100, end - 400);
            let until = (from + rng.between(100, 1500)).min(end);
            self.draw_episode(from, until, end, rng);
        }
        self.draw_wipe(model, end, rng);
        self.schedule.sort_by_key(|(at, _)| *at);
    }

    /// One correct replica loses its disk, where that leaves no more faulty ones than are survived.
    fn draw_wipe(&mut self, model: FaultModel, end: u64, rng: &mut SeededRng) {
        let quorums = Quorums::new(model, self.replicas);
        let faults = quorums.map_or(0, |quorums| quorums.faults());
        let victim = NodeId(rng.below(self.replicas as u64) as u32);
        let at = rng.between(100, end - 300);
        let correct = self
            .adversaries
            .iter()
            .all(|(replica, _)| *replica != victim);
        if correct && self.adversaries.len() < faults && rng.chance(0.15) {
            let wipe = Action::Crash(Target::Replica(victim), CrashKind::Wipe);
            let back = at + rng.between(50, 1000);
            self.schedule.push((Time::from_millis(at), wipe));
            self.schedule
                .push((Time::from_millis(back.min(end)), Action::RestartAll));
        }
    }

    fn draw_quality(&self, rng: &mut SeededRng) -> Quality {
        let mut up_to = |most: f64| {
            if rng.chance(0.5) {
                most * rng.below(1000) as f64 / 1000.0
            } else {
                0.0
            }
        };
        Quality {
            loss: up_to(0.2),
            duplicate: up_to(0.2),
            reorder: up_to(0.3),
            ..self.quality
        }
    }

    /// One episode of trouble.
    fn draw_episode(&mut self, from: u64, until: u64, end: u64, rng: &mut SeededRng) {
        let mut add = |at: u64, action| {
            self.schedule.push((Time::from_millis(at.min(end)), action));
        };
        let n = self.replicas;
        let target = if rng.chance(0.6) {
            Target::Leader
        } else {
            Target::Replica(NodeId(rng.below(n as u64) as u32))
        };
        let kinds = [
            CrashKind::PowerCut,
            CrashKind::DuringWrite,
            CrashKind::LosingAll,
            CrashKind::Kill,
        ];
        let kind = rng.pick(&kinds).copied().unwrap_or(CrashKind::PowerCut);
        match rng.below(13) {
            0 | 1 => {
                add(from, Action::Crash(target, kind));
                add(until, Action::RestartAll);
            }
            2 => {
                add(from, Action::CrashAll(kind));
                add((from + 200).min(until), Action::RestartAll);
            }
            3 | 4 => {
                let ends = n + self.clients.len();
                let groups = split(ends, rng.between(2, 3) as usize, rng);
                add(from, Action::Partition(groups));
                add(until, Action::Mend);
            }
            5 => {
                let still_hears = rng.chance(0.5);
                add(
                    from,
                    Action::Isolate {
                        target,
                        still_hears,
                    },
                );
                add(until, Action::Mend);
            }
            6 => {
                let mut cuts = Vec::new();
                for a in 0..n {
                    for b in 0..n {
                        if a != b && rng.chance(0.3) {
                            cuts.push((a, b));
                        }
                    }
                }
                add(from, Action::Cut(cuts));
                add(until, Action::Mend);
            }
            7 => {
                add(from, Action::Pause(target));
                add(until, Action::ResumeAll);
            }
            8 => {
                let replica = NodeId(rng.below(n as u64) as u32);
                add(from, Action::SlowDisk(replica, rng.between(5, 50) as u32));
                add(until, Action::SlowDisk(replica, 1));
            }
            _ => {
                for i in 0..rng.between(2, 4) {
                    add(from + i * rng.between(20, 300), Action::Suspect);
                }
            }
        }
    }
}

/// Splits the ends into groups at random.
fn split(ends: usize, groups: usize, rng: &mut SeededRng) -> Vec<Vec<usize>> {
    let mut split = vec![Vec::new(); groups];
    for end in 0..ends {
        split[rng.below(groups as u64) as usize].push(end);
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices() -> Choices<'static> {
        Choices {
            model: FaultModel::Byzantine,
            adversaries: &["mute", "equivocate"],
            replicas: None,
            bug: None,
        }
    }

    /// Seed 1119226 of PBFT: one client was left whose calls came one by one, each in 0.35 s.
    #[test]
    fn plans_with_a_slow_leader_wait_for_a_slot_of_full_patience_for_each_call() {
        let slow = Choices {
            adversaries: &[SLOW_LEADER],
            ..choices()
        };
        let usual = Plan::calm("calm", 4, 0).answered_within;
        for seed in 0..100 {
            let plan = Plan::draw(seed, &slow);
            let each = plan.clients.iter().map(|client| client.operations).max();
            let slots = plan.patience * u32::try_from(each.unwrap()).unwrap();
            let expected = if plan.adversaries.is_empty() {
                usual
            } else {
                usual + slots
            };
            assert_eq!(plan.answered_within, expected, "seed {seed}");
        }
    }

    #[test]
    fn plans_are_valid_and_the_same_for_the_same_seed() {
        for seed in 0..500 {
            let plan = Plan::draw(seed, &choices());
            assert_eq!(plan.limits.validate(), Ok(()), "seed {seed}");
            assert!(plan.operations() >= 205, "seed {seed}");
            let f = (plan.replicas - 1) / 3;
            assert!(plan.adversaries.len() <= f, "seed {seed}");
            let last = plan.schedule.last().map(|(_, action)| action.clone());
            assert_eq!(last, Some(Action::Heal), "seed {seed}");
            let again = Plan::draw(seed, &choices());
            assert_eq!(format!("{plan:?}"), format!("{again:?}"));
        }
    }
}
