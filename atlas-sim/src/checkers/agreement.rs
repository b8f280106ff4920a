//! Agreement: no two correct replicas decide differently in a slot, nor are in different states
//! after the same decisions; and each is handed its decisions in order, without gaps, each once.

use super::Violation;
use atlas_common::{Digest, NodeId, SeqNo};
use std::collections::BTreeMap;

/// What correct replicas have decided so far.
#[derive(Debug)]
pub struct Agreement {
    decided: BTreeMap<SeqNo, (NodeId, Digest)>,
    states: BTreeMap<SeqNo, (NodeId, Digest)>,
    /// For each replica the last decision that its executor was handed.
    last: Vec<SeqNo>,
}

impl Agreement {
    /// The checker for `replicas` replicas.
    #[must_use]
    pub fn new(replicas: usize) -> Self {
        Self {
            decided: BTreeMap::new(),
            states: BTreeMap::new(),
            last: vec![SeqNo::ZERO; replicas],
        }
    }

    /// A correct replica has decided. Gives whether it is the first to decide this slot.
    ///
    /// # Errors
    /// When it is out of turn, or another decided differently.
    pub fn decided(
        &mut self,
        replica: NodeId,
        seq: SeqNo,
        batch: Digest,
    ) -> Result<bool, Violation> {
        let last = &mut self.last[replica.index()];
        let expected = last.next();
        if seq != expected {
            return Err(Violation::DecisionOrder {
                replica,
                expected,
                found: seq,
            });
        }
        *last = seq;
        let (first, one) = *self.decided.entry(seq).or_insert((replica, batch));
        if one != batch {
            return Err(Violation::Agreement {
                seq,
                first,
                one,
                second: replica,
                other: batch,
            });
        }
        Ok(first == replica)
    }

    /// A correct replica starts (again) from the state after this decision.
    pub fn starts_from(&mut self, replica: NodeId, seq: SeqNo) {
        self.last[replica.index()] = seq;
    }

    /// A correct replica has taken over a state. Later decisions that it was handed meanwhile stand.
    pub fn installs(&mut self, replica: NodeId, seq: SeqNo) {
        let last = &mut self.last[replica.index()];
        *last = seq.max(*last);
    }

    /// A correct replica is in this state after a decision.
    ///
    /// # Errors
    /// When another was in a different one.
    pub fn state(&mut self, replica: NodeId, seq: SeqNo, state: Digest) -> Result<(), Violation> {
        let (first, one) = *self.states.entry(seq).or_insert((replica, state));
        if one != state {
            return Err(Violation::State {
                seq,
                first,
                one,
                second: replica,
                other: state,
            });
        }
        Ok(())
    }

    /// The last slot that anybody decided.
    #[must_use]
    pub fn highest(&self) -> SeqNo {
        self.decided.keys().next_back().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_decisions_and_gaps_are_found() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let mut agreement = Agreement::new(2);
        assert_eq!(agreement.decided(NodeId(0), SeqNo(1), a), Ok(true));
        assert_eq!(agreement.decided(NodeId(1), SeqNo(1), a), Ok(false));
        assert_eq!(agreement.decided(NodeId(0), SeqNo(2), a), Ok(true));
        assert!(matches!(
            agreement.decided(NodeId(1), SeqNo(2), b),
            Err(Violation::Agreement { .. })
        ));
        assert!(matches!(
            agreement.decided(NodeId(0), SeqNo(2), a),
            Err(Violation::DecisionOrder { .. })
        ));
        assert_eq!(agreement.state(NodeId(0), SeqNo(2), a), Ok(()));
        assert!(agreement.state(NodeId(1), SeqNo(2), b).is_err());
        agreement.starts_from(NodeId(0), SeqNo(0));
        assert_eq!(agreement.decided(NodeId(0), SeqNo(1), a), Ok(true));
    }
}
