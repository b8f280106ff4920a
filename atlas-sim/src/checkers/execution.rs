//! Execution: all correct replicas run the same operations with the same results in a slot, each
//! operation once, and each client's in their order.
//!
//! The simulated application reports every operation that really runs, by the label that its client
//! put into it.

use super::Violation;
use atlas_common::{NodeId, SeqNo};
use std::collections::BTreeMap;

/// What names an operation: its client and the client's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// The client's number in the run.
    pub client: u64,
    /// The client's own count of its operations, from 1.
    pub operation: u64,
}

impl Label {
    /// From here on numbers of clients are those of their reads. A read that could not be answered
    /// at once is ordered, after calls that were made later.
    pub const READS: u64 = 1 << 40;
}

/// An operation that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Which.
    pub label: Label,
    /// A hash of its result.
    pub result: u64,
}

/// What correct replicas have executed.
#[derive(Debug, Default)]
pub struct Execution {
    /// For each slot who executed it first, and what ran.
    slots: BTreeMap<SeqNo, (NodeId, Vec<Ran>)>,
    /// Where each operation ran.
    ran: BTreeMap<Label, (SeqNo, u64)>,
    last: BTreeMap<u64, u64>,
    order: u64,
}

impl Execution {
    /// A correct replica has executed a slot; `ran` is what ran in it, in order.
    ///
    /// # Errors
    /// When it differs from what another ran, or an operation runs again or out of order.
    pub fn executed(
        &mut self,
        replica: NodeId,
        seq: SeqNo,
        ran: Vec<Ran>,
    ) -> Result<(), Violation> {
        if let Some((first, before)) = self.slots.get(&seq) {
            if *before == ran {
                return Ok(());
            }
            return Err(Violation::Execution {
                seq,
                first: *first,
                second: replica,
                what: difference(before, &ran),
            });
        }
        for one in &ran {
            self.first_time(seq, one.label)?;
        }
        self.slots.insert(seq, (replica, ran));
        Ok(())
    }

    fn first_time(&mut self, seq: SeqNo, label: Label) -> Result<(), Violation> {
        let Label { client, operation } = label;
        if let Some((first, _)) = self.ran.get(&label) {
            return Err(Violation::ExecutedTwice {
                client,
                operation,
                first: *first,
                second: seq,
            });
        }
        let last = self.last.entry(client).or_default();
        if operation <= *last && client < Label::READS {
            return Err(Violation::SessionOrder {
                client,
                seq,
                last: *last,
                found: operation,
            });
        }
        *last = operation.max(*last);
        self.order += 1;
        self.ran.insert(label, (seq, self.order));
        Ok(())
    }

    /// The place of an operation in the order in which the replicas ran them.
    #[must_use]
    pub fn place(&self, label: Label) -> Option<u64> {
        self.ran.get(&label).map(|(_, order)| *order)
    }

    /// How many operations ran.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ran.len()
    }

    /// Whether none ran.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ran.is_empty()
    }
}

fn difference(one: &[Ran], other: &[Ran]) -> String {
    let at = one.iter().zip(other).position(|(a, b)| a != b);
    let at = at.unwrap_or(one.len().min(other.len()));
    let show = |ran: Option<&Ran>| match ran {
        Some(Ran { label, result }) => {
            format!(
                "client {}, operation {} → {result:x}",
                label.client, label.operation
            )
        }
        None => "nothing".to_owned(),
    };
    format!(
        "number {} is {} and {}",
        at + 1,
        show(one.get(at)),
        show(other.get(at))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(client: u64, operation: u64, result: u64) -> Ran {
        let label = Label { client, operation };
        Ran { label, result }
    }

    #[test]
    fn each_once_in_order_and_alike_everywhere() {
        let mut execution = Execution::default();
        let (a, b) = (NodeId(0), NodeId(1));
        let first = vec![ran(1, 1, 5), ran(2, 1, 6), ran(1, 2, 7)];
        assert_eq!(execution.executed(a, SeqNo(1), first.clone()), Ok(()));
        assert_eq!(execution.executed(b, SeqNo(1), first), Ok(()));
        let other = execution.executed(b, SeqNo(1), vec![ran(1, 1, 6)]);
        assert!(matches!(other, Err(Violation::Execution { .. })));
        let again = execution.executed(a, SeqNo(2), vec![ran(1, 2, 7)]);
        assert!(matches!(again, Err(Violation::ExecutedTwice { .. })));
        assert_eq!(execution.executed(a, SeqNo(3), vec![ran(2, 3, 0)]), Ok(()));
        let back = execution.executed(a, SeqNo(4), vec![ran(2, 2, 0)]);
        assert!(matches!(back, Err(Violation::SessionOrder { .. })));
        assert_eq!(
            execution.place(Label {
                client: 1,
                operation: 2
            }),
            Some(3)
        );
    }
}
