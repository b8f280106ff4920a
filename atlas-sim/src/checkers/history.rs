//! The history of a key-value store as its clients saw it.

use super::Violation;
use super::execution::{Execution, Label};
use super::linearizability::{self, Linearizability, Operation, Sequential};
use atlas_common::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a client asks about one key. Values are numbers, each written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The value, please.
    Get,
    /// Store this value.
    Put(u64),
    /// Store a value if this one is there (`None`: if none is).
    Cas {
        /// What has to be there.
        expected: Option<u64>,
        /// What to store.
        new: u64,
    },
    /// Remove the value.
    Delete,
    /// Move money from one account to another, if there is enough.
    Transfer {
        /// The payer.
        from: u64,
        /// The payee.
        to: u64,
        /// How much.
        amount: u64,
    },
    /// What do all accounts hold?
    Audit,
    /// Take money from an account, and then fail: nothing may come of it.
    Fail {
        /// The account.
        from: u64,
        /// How much.
        amount: u64,
    },
}

/// How many accounts there are, and what each holds in the beginning.
pub const ACCOUNTS: usize = 4;
/// What each account holds in the beginning.
pub const INITIAL_BALANCE: u64 = 100;

/// What the accounts hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Balances(pub [u64; ACCOUNTS]);

impl Default for Balances {
    fn default() -> Self {
        Self([INITIAL_BALANCE; ACCOUNTS])
    }
}

impl Balances {
    /// All together: always the same.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, held| sum.saturating_add(*held))
    }

    fn after(&self, from: u64, to: u64, amount: u64) -> Option<Self> {
        let mut after = *self;
        let place = |account| usize::try_from(account).unwrap_or(usize::MAX);
        let payer = after.0.get_mut(place(from))?;
        *payer = payer.checked_sub(amount)?;
        let payee = after.0.get_mut(place(to))?;
        *payee = payee.checked_add(amount)?;
        Some(after)
    }
}

/// What the store answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value.
    Value(Option<u64>),
    /// Stored.
    Put {
        /// Whether there was a value before.
        previous: bool,
    },
    /// Removed.
    Deleted {
        /// Whether there was a value.
        existed: bool,
    },
    /// The expected value was there, and was replaced.
    Swapped,
    /// This one was there, and stays.
    Kept(Option<u64>),
    /// Whether there was enough money.
    Transferred(bool),
    /// What the accounts hold.
    Balances(Balances),
    /// The application failed on the request.
    Failed,
}

/// One key of a key-value store, as simple as can be: the oracle for the real one.
#[derive(Debug)]
pub struct Key;

impl Sequential for Key {
    type State = Option<u64>;
    type Call = Call;
    type Return = Answer;

    fn apply(state: &Option<u64>, call: &Call) -> (Option<u64>, Answer) {
        match *call {
            Call::Get => (*state, Answer::Value(*state)),
            Call::Put(value) => {
                let previous = state.is_some();
                (Some(value), Answer::Put { previous })
            }
            Call::Delete => {
                let existed = state.is_some();
                (None, Answer::Deleted { existed })
            }
            Call::Cas { expected, new } if *state == expected => (Some(new), Answer::Swapped),
            Call::Cas { .. } => (*state, Answer::Kept(*state)),
            Call::Transfer { .. } | Call::Audit | Call::Fail { .. } => (*state, Answer::Failed),
        }
    }
}

/// What calls about accounts have for a key: all accounts are one object.
pub const BANK: u64 = u64::MAX;

/// All accounts, as simple as can be.
#[derive(Debug)]
pub struct Bank;

impl Sequential for Bank {
    type State = Balances;
    type Call = Call;
    type Return = Answer;

    fn apply(state: &Balances, call: &Call) -> (Balances, Answer) {
        match *call {
            Call::Transfer { from, to, amount } => {
                let after = state.after(from, to, amount);
                let moved = Answer::Transferred(after.is_some());
                (after.unwrap_or(*state), moved)
            }
            Call::Audit => (*state, Answer::Balances(*state)),
            _ => (*state, Answer::Failed),
        }
    }
}

/// All calls and answers of a run.
#[derive(Debug, Default)]
pub struct History {
    calls: BTreeMap<Label, Record>,
    answered: u64,
    given_up: u64,
}

#[derive(Debug)]
struct Record {
    key: u64,
    call: Call,
    called: Time,
    returned: Option<(Answer, Time)>,
}

/// The search gives up after so many steps for one key; a right history takes one per operation.
const STEPS_MAX: usize = 2_000_000;

impl History {
    /// A client calls.
    pub fn called(&mut self, label: Label, key: u64, call: Call, now: Time) {
        let record = Record {
            key,
            call,
            called: now,
            returned: None,
        };
        self.calls.insert(label, record);
    }

    /// A client has got its answer.
    pub fn returned(&mut self, label: Label, answer: Answer, now: Time) {
        if let Some(record) = self.calls.get_mut(&label) {
            record.returned = Some((answer, now));
            self.answered += 1;
        }
    }

    /// A client no longer waits for an answer.
    pub fn gave_up(&mut self) {
        self.given_up += 1;
    }

    /// How many calls wait for an answer.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        (self.calls.len() as u64).saturating_sub(self.answered + self.given_up)
    }

    /// How many calls were answered.
    #[must_use]
    pub const fn answered(&self) -> u64 {
        self.answered
    }

    /// How many calls there were.
    #[must_use]
    pub fn called_count(&self) -> usize {
        self.calls.len()
    }

    /// Whether the answers can be explained, key by key. What the replicas executed serves as a hint
    /// only.
    ///
    /// # Errors
    /// The key whose answers cannot.
    pub fn check(&self, execution: &Execution) -> Result<(), Violation> {
        let mut keys: BTreeMap<u64, Vec<Operation<Call, Answer>>> = BTreeMap::new();
        for (label, record) in &self.calls {
            // A read that was not ordered changes nothing: wherever its answer is right it fits.
            let unordered = match record.call {
                Call::Get | Call::Audit => 0,
                _ => u64::MAX,
            };
            keys.entry(record.key).or_default().push(Operation {
                call: record.call,
                called: record.called,
                returned: record.returned,
                hint: execution.place(*label).unwrap_or(unordered),
            });
        }
        for (key, operations) in keys {
            let verdict = match key {
                BANK => linearizability::check::<Bank>(&operations, STEPS_MAX),
                _ => linearizability::check::<Key>(&operations, STEPS_MAX),
            };
            match verdict {
                Linearizability::Linearizable => {}
                Linearizability::Violated => {
                    return Err(Violation::NotLinearizable {
                        key: key.to_string(),
                        operations: operations.len(),
                    });
                }
                Linearizability::Undecided => {
                    return Err(Violation::Undecided {
                        key: key.to_string(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_update_of_one_key_is_found_among_others() {
        let label = |operation| Label {
            client: 1,
            operation,
        };
        let at = Time::from_millis;
        let mut history = History::default();
        let calls = [
            (1, Call::Put(1), Answer::Put { previous: false }),
            (2, Call::Put(2), Answer::Put { previous: false }),
            (
                2,
                Call::Cas {
                    expected: Some(2),
                    new: 3,
                },
                Answer::Swapped,
            ),
            (1, Call::Delete, Answer::Deleted { existed: true }),
            (1, Call::Get, Answer::Value(None)),
        ];
        for (i, (key, call, answer)) in (1..).zip(calls) {
            history.called(label(i), key, call, at(10 * i));
            history.returned(label(i), answer, at(10 * i + 5));
        }
        let execution = Execution::default();
        assert_eq!(history.check(&execution), Ok(()));
        history.called(label(9), 2, Call::Get, at(100));
        history.returned(label(9), Answer::Value(Some(2)), at(110));
        let found = history.check(&execution).unwrap_err();
        let key = "2".to_owned();
        assert_eq!(found, Violation::NotLinearizable { key, operations: 3 });
    }

    #[test]
    fn money_that_is_counted_twice_is_found() {
        let label = |operation| Label {
            client: 1,
            operation,
        };
        let at = Time::from_millis;
        let mut history = History::default();
        let (from, to, amount) = (0, 1, 30);
        history.called(label(1), BANK, Call::Transfer { from, to, amount }, at(10));
        history.returned(label(1), Answer::Transferred(true), at(20));
        history.called(label(2), BANK, Call::Fail { from, amount }, at(30));
        history.returned(label(2), Answer::Failed, at(40));
        let execution = Execution::default();
        for (held, right) in [([70, 130, 100, 100], true), ([100, 130, 100, 100], false)] {
            history.called(label(3), BANK, Call::Audit, at(50));
            history.returned(label(3), Answer::Balances(Balances(held)), at(60));
            assert_eq!(history.check(&execution).is_ok(), right);
        }
    }
}
