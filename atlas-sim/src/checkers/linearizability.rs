//! Linearizability: is there one order of all operations, each at some moment between its call and
//! its return, in which a single copy would have given the same answers?
//!
//! The search is Wing and Gong's (1993) with Lowe's memory of configurations already tried (2017):
//! whoever was called before the first outstanding return may come next. Operations whose outcome
//! is unknown may have happened at any time after their call, or never. A history splits by key
//! (linearizability is local), which the caller does.
//!
//! The replicas' own order serves as a hint which candidate to try first. It changes no verdict, only
//! how soon a right order is found: at once, when the system is right.

use atlas_common::Time;
use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// A sequential object: what one copy would do.
pub trait Sequential {
    /// Its state.
    type State: Clone + Eq + Hash + Default + Debug;
    /// What it is asked.
    type Call: Debug;
    /// What it answers.
    type Return: PartialEq + Debug;

    /// The state after a call, and the answer.
    fn apply(state: &Self::State, call: &Self::Call) -> (Self::State, Self::Return);
}

/// One operation as its client saw it.
#[derive(Clone, Debug)]
pub struct Operation<C, R> {
    /// What was asked.
    pub call: C,
    /// When.
    pub called: Time,
    /// The answer and when it came; `None` when the outcome is unknown.
    pub returned: Option<(R, Time)>,
    /// Its place in the order to try first.
    pub hint: u64,
}

/// What the search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linearizability {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Violated,
    /// The search was given up after too many steps.
    Undecided,
}

/// Searches an order for these operations on one object.
#[must_use]
pub fn check<S: Sequential>(
    operations: &[Operation<S::Call, S::Return>],
    steps_max: usize,
) -> Linearizability {
    Search::<S>::new(operations).run(steps_max)
}

struct Search<'a, S: Sequential> {
    /// By the moment of the call.
    operations: Vec<&'a Operation<S::Call, S::Return>>,
    /// Which are in the order so far.
    taken: Vec<u64>,
    /// Before this position all are taken.
    head: usize,
    /// Returned operations not taken yet.
    to_take: usize,
    tried: HashSet<(Vec<u64>, S::State)>,
    path: Vec<Level<S::State>>,
}

/// One position of the order, with what else could stand there.
struct Level<State> {
    before: State,
    head: usize,
    candidates: Vec<usize>,
    next: usize,
}

impl<'a, S: Sequential> Search<'a, S> {
    fn new(operations: &'a [Operation<S::Call, S::Return>]) -> Self {
        let mut sorted: Vec<_> = operations.iter().collect();
        sorted.sort_by_key(|operation| operation.called);
        Self {
            taken: vec![0; sorted.len().div_ceil(64)],
            head: 0,
            to_take: sorted.iter().filter(|op| op.returned.is_some()).count(),
            operations: sorted,
            tried: HashSet::new(),
            path: Vec::new(),
        }
    }

    fn run(mut self, steps_max: usize) -> Linearizability {
        let mut state = S::State::default();
        let mut steps = 0;
        self.descend(&state);
        while self.to_take > 0 {
            steps += 1;
            if steps > steps_max {
                return Linearizability::Undecided;
            }
            let Some(level) = self.path.last_mut() else {
                return Linearizability::Violated;
            };
            let Some(&candidate) = level.candidates.get(level.next) else {
                self.path.pop();
                if let Some(above) = self.path.last() {
                    // The candidate that led here was the last one tried there.
                    let index = above.candidates[above.next - 1];
                    self.head = above.head;
                    self.put_back(index);
                }
                continue;
            };
            level.next += 1;
            let (after, answer) = S::apply(&level.before, &self.operations[candidate].call);
            let returned = &self.operations[candidate].returned;
            if returned
                .as_ref()
                .is_some_and(|(expected, _)| *expected != answer)
            {
                continue;
            }
            self.take(candidate);
            if self.tried.insert((self.taken.clone(), after.clone())) {
                state = after;
                self.descend(&state);
            } else {
                self.put_back(candidate);
            }
        }
        Linearizability::Linearizable
    }

    fn is_taken(&self, index: usize) -> bool {
        self.taken[index / 64] >> (index % 64) & 1 == 1
    }

    fn take(&mut self, index: usize) {
        self.taken[index / 64] |= 1 << (index % 64);
        self.to_take -= usize::from(self.operations[index].returned.is_some());
    }

    fn put_back(&mut self, index: usize) {
        self.taken[index / 64] &= !(1 << (index % 64));
        self.to_take += usize::from(self.operations[index].returned.is_some());
    }

    /// Opens the next position: whoever was called before the first return of those not taken.
    fn descend(&mut self, before: &S::State) {
        while self.head < self.operations.len() && self.is_taken(self.head) {
            self.head += 1;
        }
        let mut first_return = Time::NEVER;
        let mut candidates = Vec::new();
        for index in self.head..self.operations.len() {
            let operation = self.operations[index];
            if operation.called > first_return {
                break;
            }
            if !self.is_taken(index) {
                if let Some((_, at)) = &operation.returned {
                    first_return = first_return.min(*at);
                }
                candidates.push(index);
            }
        }
        candidates.retain(|index| self.operations[*index].called <= first_return);
        candidates.sort_by_key(|index| self.operations[*index].hint);
        self.path.push(Level {
            before: before.clone(),
            head: self.head,
            candidates,
            next: 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_common::rng::SeededRng;

    struct Register;

    #[derive(Clone, Copy, Debug)]
    enum Call {
        Read,
        Write(u64),
    }

    impl Sequential for Register {
        type State = u64;
        type Call = Call;
        type Return = Option<u64>;

        fn apply(state: &u64, call: &Call) -> (u64, Option<u64>) {
            match call {
                Call::Read => (*state, Some(*state)),
                Call::Write(value) => (*value, None),
            }
        }
    }

    type Op = Operation<Call, Option<u64>>;

    fn read(value: u64, from: u64, to: u64) -> Op {
        op(Call::Read, from, Some((Some(value), to)))
    }

    fn write(value: u64, from: u64, to: u64) -> Op {
        op(Call::Write(value), from, Some((None, to)))
    }

    fn op(call: Call, from: u64, returned: Option<(Option<u64>, u64)>) -> Op {
        Operation {
            call,
            called: Time::from_millis(from),
            returned: returned.map(|(r, at)| (r, Time::from_millis(at))),
            hint: 0,
        }
    }

    fn verdict(history: &[Op]) -> Linearizability {
        check::<Register>(history, 100_000)
    }

    #[test]
    fn a_stale_read_is_found_and_a_concurrent_one_is_allowed() {
        use Linearizability::{Linearizable, Violated};
        assert_eq!(verdict(&[write(1, 0, 10), read(0, 20, 30)]), Violated);
        assert_eq!(verdict(&[write(1, 0, 25), read(0, 20, 30)]), Linearizable);
        // Two reads that see a write and then do not see it any more.
        let back = [write(1, 0, 50), read(1, 10, 20), read(0, 30, 40)];
        assert_eq!(verdict(&back), Violated);
    }

    #[test]
    fn an_operation_of_unknown_outcome_may_happen_late_or_never() {
        use Linearizability::{Linearizable, Violated};
        let lost = op(Call::Write(1), 0, None);
        assert_eq!(verdict(&[lost.clone(), read(0, 10, 20)]), Linearizable);
        let late = [lost.clone(), read(0, 10, 20), read(1, 30, 40)];
        assert_eq!(verdict(&late), Linearizable);
        let twice = [lost, read(1, 10, 20), read(0, 30, 40)];
        assert_eq!(verdict(&twice), Violated);
    }

    /// Histories of a real register with random overlaps are accepted; with one answer changed to a
    /// value never written they are not.
    #[test]
    fn random_histories_of_a_register() {
        for seed in 0..200 {
            let mut rng = SeededRng::new(seed);
            let (mut state, mut history) = (0, Vec::new());
            for i in 0..60 {
                let (from, to) = (i * 10 - i.min(rng.below(40)), i * 10 + rng.below(40));
                if rng.chance(0.5) {
                    state = i + 1;
                    history.push(write(state, from, to));
                } else {
                    history.push(read(state, from, to));
                }
            }
            rng.shuffle(&mut history);
            assert_eq!(
                verdict(&history),
                Linearizability::Linearizable,
                "seed {seed}"
            );
            if let Some(wrong) = history.iter_mut().find(|op| matches!(op.call, Call::Read)) {
                wrong.returned.as_mut().unwrap().0 = Some(1000);
                assert_eq!(verdict(&history), Linearizability::Violated, "seed {seed}");
            }
        }
    }
}
