//! Facts that a protocol names itself: all correct replicas must agree on them.

use super::Violation;
use crate::protocol::Fact;
use atlas_common::{NodeId, SeqNo};
use std::collections::BTreeMap;

/// What a fact is about: its name, and its place.
type About = (&'static str, (SeqNo, u64));

/// The facts seen so far.
#[derive(Debug, Default)]
pub struct Facts {
    /// Who held each first, and for what.
    known: BTreeMap<About, (NodeId, u64)>,
}

impl Facts {
    /// A correct replica holds this for true.
    ///
    /// # Errors
    /// When another holds otherwise, or this one did.
    pub fn held(&mut self, replica: NodeId, fact: Fact) -> Result<(), Violation> {
        let entry = self.known.entry((fact.name, fact.at));
        let (first, one) = *entry.or_insert((replica, fact.value));
        if one == fact.value {
            return Ok(());
        }
        let (seq, detail) = fact.at;
        Err(Violation::Fact {
            what: format!("{} {seq}.{detail}", fact.name),
            first,
            one,
            second: replica,
            other: fact.value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_the_same_for_all_replicas() {
        let fact = |at, value| Fact {
            name: "coin",
            at: (SeqNo(at), 1),
            value,
        };
        let mut facts = Facts::default();
        assert_eq!(facts.held(NodeId(0), fact(1, 0)), Ok(()));
        assert_eq!(facts.held(NodeId(1), fact(1, 0)), Ok(()));
        assert_eq!(facts.held(NodeId(1), fact(2, 1)), Ok(()));
        assert!(facts.held(NodeId(2), fact(1, 1)).is_err());
    }
}
