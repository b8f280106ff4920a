//! Telling calls that met a checkpoint from those that did not.

use super::callers::Sample;
use super::watch::Standing;
use serde::Serialize;

/// One look at all replicas, in microseconds since the callers' start.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) at: u64,
    pub(super) replicas: Vec<Option<Standing>>,
}

/// A checkpoint, from its decision until every replica has it certified and durable.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Checkpoint {
    /// The decision.
    pub(super) seq: u64,
    pub(super) from_us: u64,
    pub(super) to_us: u64,
    /// What it put on the disk of the replica that wrote most.
    pub(super) bytes_written: u64,
    /// The size of the state.
    pub(super) state_bytes: u64,
    /// Whether it ended before the next one was due.
    pub(super) in_time: bool,
}

/// The checkpoints in these looks, each `interval` decisions after the one before, as far as they
/// were seen whole.
pub(super) fn checkpoints(looks: &[Look], interval: u64) -> Vec<Checkpoint> {
    let mut found = Vec::new();
    let Some(first) = looks.first() else {
        return found;
    };
    let mut seq = (executed(first) / interval + 1) * interval;
    while let Some(due) = looks.iter().position(|look| executed(look) >= seq)
        && let Some(done) = looks.iter().position(|look| everywhere(look, seq))
    {
        // It became due after the look before.
        let before = &looks[due.saturating_sub(1)];
        let after = &looks[done];
        found.push(Checkpoint {
            seq,
            from_us: before.at,
            to_us: after.at,
            bytes_written: written(before, after),
            state_bytes: most(after, |replica| replica.state_bytes),
            in_time: executed(after) < seq + interval,
        });
        seq += interval;
    }
    found
}

/// When the checkpoint after decision `seq` that is not yet everywhere became due, if it did.
pub(super) fn unfinished(looks: &[Look], interval: u64) -> Option<u64> {
    let last = looks.last()?;
    let seq = executed(last) / interval * interval;
    if seq == 0 || everywhere(last, seq) {
        return None;
    }
    let due = looks.iter().position(|look| executed(look) >= seq)?;
    Some(looks[due.saturating_sub(1)].at)
}

/// How far the fastest replica is.
pub(super) fn executed(look: &Look) -> u64 {
    most(look, |replica| replica.executed)
}

fn everywhere(look: &Look, seq: u64) -> bool {
    let has = |replica: &Option<Standing>| replica.is_some_and(|r| r.checkpoint >= seq);
    look.replicas.iter().all(has)
}

pub(super) fn most(look: &Look, figure: impl Fn(&Standing) -> u64) -> u64 {
    look.replicas
        .iter()
        .flatten()
        .map(figure)
        .max()
        .unwrap_or(0)
}

fn written(before: &Look, after: &Look) -> u64 {
    let both = before.replicas.iter().zip(&after.replicas);
    let written = both.filter_map(|(before, after)| {
        let (before, after) = (before.as_ref()?, after.as_ref()?);
        Some(
            after
                .checkpoint_bytes
                .saturating_sub(before.checkpoint_bytes),
        )
    });
    written.max().unwrap_or(0)
}

/// The times in which a checkpoint was being taken, in order, each once: one that outlasts its interval
/// overlaps the next, and one may be under way at the first look and at the last.
pub(super) fn busy(looks: &[Look], interval: u64) -> Vec<(u64, u64)> {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else {
        return Vec::new();
    };
    let early = unfinished(std::slice::from_ref(first), interval).map(|from| {
        let seq = executed(first) / interval * interval;
        let done = looks.iter().find(|look| everywhere(look, seq));
        (from, done.unwrap_or(last).at)
    });
    let taken = checkpoints(looks, interval);
    let whole = taken.iter().map(|c| (c.from_us, c.to_us));
    let late = unfinished(looks, interval).map(|from| (from, last.at));
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for (from, to) in early.into_iter().chain(whole).chain(late) {
        match spans.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => spans.push((from, to)),
        }
    }
    spans
}

/// The times in which some replica collected garbage, in order.
pub(super) fn collecting(looks: &[Look]) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for (before, after) in looks.iter().zip(looks.iter().skip(1)) {
        let mut both = before.replicas.iter().zip(&after.replicas);
        let is_so = both.any(|(before, after)| match (before, after) {
            (Some(before), Some(after)) => {
                before.collecting || after.collecting || before.collections < after.collections
            }
            _ => false,
        });
        match spans.last_mut() {
            Some(last) if is_so && last.1 == before.at => last.1 = after.at,
            _ if is_so => spans.push((before.at, after.at)),
            _ => {}
        }
    }
    spans
}

/// How long these spans are together, but for what is in one of `others`, which do not overlap.
pub(super) fn length_without(spans: &[(u64, u64)], others: &[(u64, u64)]) -> u64 {
    let common = |a: &(u64, u64), b: &(u64, u64)| a.1.min(b.1).saturating_sub(a.0.max(b.0));
    let own = |span: &(u64, u64)| {
        let shared: u64 = others.iter().map(|other| common(span, other)).sum();
        (span.1 - span.0).saturating_sub(shared)
    };
    spans.iter().map(own).sum()
}

/// Whether a call was open at some time of a span.
pub(super) const fn meets(sample: &Sample, (from, to): (u64, u64)) -> bool {
    sample.appointed <= to && sample.answered() >= from
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: u64, replicas: &[(u64, u64, u64)]) -> Look {
        let standing = |(executed, checkpoint, checkpoint_bytes): &(u64, u64, u64)| {
            Some(Standing {
                executed: *executed,
                checkpoint: *checkpoint,
                checkpoint_bytes: *checkpoint_bytes,
                state_bytes: 1000,
                ..Standing::default()
            })
        };
        Look {
            at,
            replicas: replicas.iter().map(standing).collect(),
        }
    }

    #[test]
    fn a_checkpoint_lasts_from_its_decision_until_all_replicas_have_it() {
        let looks = [
            look(0, &[(105, 100, 5), (101, 100, 5)]),
            look(10, &[(190, 100, 5), (195, 100, 5)]),
            look(20, &[(201, 100, 5), (199, 100, 5)]),
            look(30, &[(250, 200, 85), (250, 100, 5)]),
            look(40, &[(260, 200, 85), (260, 200, 95)]),
            look(50, &[(301, 200, 85), (301, 200, 95)]),
        ];
        let found = checkpoints(&looks, 100);
        let expected = Checkpoint {
            seq: 200,
            from_us: 10,
            to_us: 40,
            bytes_written: 90,
            state_bytes: 1000,
            in_time: true,
        };
        assert_eq!(found, [expected]);
        assert_eq!(unfinished(&looks, 100), Some(40));
        assert_eq!(unfinished(&looks[..5], 100), None);
    }

    #[test]
    fn one_that_outlasts_its_interval_is_told_and_one_with_a_replica_unseen_is_not_done() {
        let mut looks = vec![
            look(0, &[(5, 0, 0)]),
            look(10, &[(11, 0, 0)]),
            look(20, &[(21, 10, 3)]),
        ];
        assert!(!checkpoints(&looks, 10)[0].in_time);
        looks[2].replicas.push(None);
        assert_eq!(checkpoints(&looks, 10), []);
    }

    #[test]
    fn checkpoints_that_overlap_are_one_busy_time_and_so_is_one_without_an_end() {
        let at = |at, executed, certified| look(at, &[(executed, certified, 0)]);
        let looks = [
            at(0, 105, 0),
            at(10, 110, 100),
            at(20, 199, 100),
            at(30, 220, 100),
            at(40, 310, 100),
            at(50, 320, 200),
            at(60, 330, 300),
            at(70, 399, 300),
            at(80, 400, 300),
            at(90, 410, 300),
        ];
        assert_eq!(busy(&looks, 100), [(0, 10), (20, 60), (70, 90)]);
        assert_eq!(busy(&looks[1..7], 100), [(20, 60)]);
        assert_eq!(busy(&looks[6..7], 100), []);
        assert_eq!(busy(&[], 100), []);
    }

    #[test]
    fn garbage_is_collected_from_the_look_before_it_was_seen_until_the_one_after() {
        let at = |at, replicas: &[(u64, bool)]| {
            let standing = |(collections, collecting): &(u64, bool)| {
                Some(Standing {
                    collections: *collections,
                    collecting: *collecting,
                    ..Standing::default()
                })
            };
            let replicas = replicas.iter().map(standing).collect();
            Look { at, replicas }
        };
        let looks = [
            at(0, &[(3, false), (3, false)]),
            at(10, &[(3, false), (3, false)]),
            at(20, &[(3, true), (3, false)]),
            at(30, &[(4, false), (3, false)]),
            at(40, &[(4, false), (3, false)]),
            // Begun and ended between two looks.
            at(50, &[(4, false), (4, false)]),
        ];
        let spans = collecting(&looks);
        assert_eq!(spans, [(10, 30), (40, 50)]);
        assert_eq!(length_without(&spans, &[]), 30);
        assert_eq!(length_without(&spans, &[(5, 15), (20, 22), (45, 90)]), 18);
    }

    #[test]
    fn a_call_meets_a_checkpoint_when_it_was_open_during_it() {
        let call = |appointed, latency| Sample { appointed, latency };
        let span = (100, 200);
        assert!(meets(&call(50, 50), span) && meets(&call(200, 1), span));
        assert!(meets(&call(0, 1000), span) && meets(&call(150, 1), span));
        assert!(!meets(&call(50, 49), span) && !meets(&call(201, 1), span));
    }
}
