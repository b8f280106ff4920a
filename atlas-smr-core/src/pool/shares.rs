//! How many of the pool's bytes each client uses.

use atlas_common::crypto::PublicKey;
use std::collections::{BTreeMap, BTreeSet};

/// What one client (all programs under one key) has in the pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Share {
    pub(super) bytes: usize,
    pub(super) held_bytes: usize,
    /// Held bundles, by arrival.
    pub(super) held: BTreeSet<u64>,
    /// Ranks of its bundles that are in line and not in flight.
    pub(super) proposable: BTreeSet<u64>,
}

/// The shares of all clients, and which is the largest.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares {
    of: BTreeMap<PublicKey, Share>,
    by_bytes: BTreeSet<(usize, PublicKey)>,
    bytes: usize,
}

impl Shares {
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn of(&self, key: &PublicKey) -> Option<&Share> {
        self.of.get(key)
    }

    /// The client that uses most.
    pub(super) fn largest(&self) -> Option<(usize, PublicKey)> {
        self.by_bytes.last().copied()
    }

    pub(super) fn add(&mut self, key: PublicKey, charge: usize) {
        let share = self.of.entry(key).or_default();
        self.by_bytes.remove(&(share.bytes, key));
        share.bytes += charge;
        self.by_bytes.insert((share.bytes, key));
        self.bytes += charge;
    }

    pub(super) fn sub(&mut self, key: PublicKey, charge: usize) {
        let Some(share) = self.of.get_mut(&key) else {
            return;
        };
        self.by_bytes.remove(&(share.bytes, key));
        share.bytes -= charge;
        self.bytes -= charge;
        if share.bytes == 0 {
            debug_assert!(share.held.is_empty() && share.proposable.is_empty());
            self.of.remove(&key);
        } else {
            self.by_bytes.insert((share.bytes, key));
        }
    }

    pub(super) fn hold(&mut self, key: PublicKey, id: u64, charge: usize) {
        if let Some(share) = self.of.get_mut(&key)
            && share.held.insert(id)
        {
            share.held_bytes += charge;
        }
    }

    pub(super) fn unhold(&mut self, key: PublicKey, id: u64, charge: usize) {
        if let Some(share) = self.of.get_mut(&key)
            && share.held.remove(&id)
        {
            share.held_bytes -= charge;
        }
    }

    pub(super) fn line_up(&mut self, key: PublicKey, rank: u64) {
        if let Some(share) = self.of.get_mut(&key) {
            share.proposable.insert(rank);
        }
    }

    pub(super) fn leave_line(&mut self, key: PublicKey, rank: u64) {
        if let Some(share) = self.of.get_mut(&key) {
            share.proposable.remove(&rank);
        }
    }
}
