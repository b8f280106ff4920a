//! What the checker lets through, and how often it verifies.

use super::*;
use crate::bundle::UnsignedBundle;
use atlas_common::crypto::{Ed25519, KeyPair, PublicKey, Signed, Signer, Verifier};
use atlas_common::quorum::FaultModel;
use atlas_common::{AgreedTime, Digest, Epoch, OpNumber, ReplicaSet, SessionId};
use atlas_core::{Batch, Limits, Member, Membership, Reject, Role};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the signatures that it verifies.
#[derive(Debug, Default)]
pub(super) struct Counting(AtomicUsize);

impl Counting {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Verifier for Counting {
    fn verify(&self, signed: &Signed) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ed25519.verify(signed)
    }

    fn verify_all(&self, signed: &[Signed]) -> bool {
        self.0.fetch_add(signed.len(), Ordering::Relaxed);
        Ed25519.verify_all(signed)
    }
}

pub(super) fn key(number: u8) -> KeyPair {
    KeyPair::from_seed(&[number; 32])
}

pub(super) fn client(number: u8) -> ClientId {
    ClientId {
        key: key(number).public_key(),
        instance: 7,
    }
}

pub(super) fn bundle(number: u8, first: u64) -> RequestBundle {
    let says = UnsignedBundle {
        client: client(number),
        session: SessionId(number.into()),
        first: OpNumber(first),
        acknowledged: OpNumber::ZERO,
        repliers: ReplicaSet::default(),
        operations: &[Bytes::from_static(b"operation")],
    };
    RequestBundle::new(&says, &Digest::of(b"genesis"), &key(number))
}

/// The bundle with one bit of its signature flipped.
pub(super) fn forged(bundle: &RequestBundle) -> Bytes {
    let mut raw = bundle.raw().to_vec();
    *raw.last_mut().unwrap() ^= 1;
    raw.into()
}

pub(super) fn checker(
    model: FaultModel,
    admission: ClientAdmission,
) -> (BundleChecker, Arc<Counting>) {
    let verifier = Arc::new(Counting::default());
    let member = |i: u8| Member {
        id: atlas_common::NodeId(i.into()),
        key: PublicKey([i; 32]),
        role: Role::Voter,
    };
    let membership = Membership::new(
        Digest::of(b"genesis"),
        Epoch(0),
        model,
        (0..4).map(member).collect(),
        Arc::clone(&verifier) as Arc<dyn Verifier>,
    );
    let checker = BundleChecker::new(&membership.unwrap(), &Limits::default(), admission);
    (checker, verifier)
}

fn byzantine() -> (BundleChecker, Arc<Counting>) {
    checker(FaultModel::Byzantine, ClientAdmission::Any)
}

fn batch(raws: &[Bytes]) -> Batch {
    Batch::new(AgreedTime::default(), raws)
}

#[test]
fn a_bundle_is_verified_once_however_it_comes() {
    let (checker, verifier) = byzantine();
    let one = bundle(1, 1);
    let raw = one.raw().clone();
    assert_eq!(
        checker.check_client(&client(1), raw.clone()),
        Ok(one.clone())
    );
    assert_eq!(
        checker.check_client(&client(1), raw.clone()),
        Ok(one.clone())
    );
    let forwarded = checker.check_forwarded(vec![raw.clone(), raw.clone()]);
    assert_eq!(forwarded, Ok(vec![one]));
    assert_eq!(checker.check_batch(&batch(&[raw.clone(), raw])), Ok(()));
    assert_eq!(verifier.count(), 1);
}

#[test]
fn row_28_a_known_bundle_under_a_false_signature_is_refused_everywhere() {
    let (knows, _) = byzantine();
    let (fresh, _) = byzantine();
    let one = bundle(1, 1);
    knows.check_client(&client(1), one.raw().clone()).unwrap();
    for checker in [knows, fresh] {
        let forged = forged(&one);
        let verdict = checker.check_client(&client(1), forged.clone());
        assert_eq!(verdict, Err(Reject::BadSignature));
        let proposal = batch(&[one.raw().clone(), forged.clone()]);
        assert_eq!(checker.check_batch(&proposal), Err(Reject::BadRequest));
        let verdict = checker.check_forwarded(vec![forged]);
        assert_eq!(verdict, Err(Reject::BadSignature));
    }
}

#[test]
fn one_bad_signature_among_many_is_found() {
    let (checker, _) = byzantine();
    let mut frames: Vec<_> = (1..40)
        .map(|n| (client(n), bundle(n, 1).raw().clone()))
        .collect();
    frames[17].1 = forged(&bundle(18, 1));
    let verdicts = checker.check_clients(frames);
    for (i, verdict) in verdicts.into_iter().enumerate() {
        match i {
            17 => assert_eq!(verdict, Err(Reject::BadSignature)),
            _ => assert_eq!(verdict, Ok(bundle(i as u8 + 1, 1))),
        }
    }
}

#[test]
fn admission_sender_and_form_are_checked() {
    let listed = ClientAdmission::Listed(BTreeSet::from([client(1).key]));
    let (checker, verifier) = checker(FaultModel::Byzantine, listed);
    let check = |from, raw| checker.check_client(&client(from), raw);
    assert!(check(1, bundle(1, 1).raw().clone()).is_ok());
    assert_eq!(
        check(2, bundle(2, 1).raw().clone()),
        Err(Reject::BadRequest)
    );
    assert_eq!(
        check(2, bundle(1, 2).raw().clone()),
        Err(Reject::WrongSender)
    );
    assert_eq!(
        check(1, Bytes::from_static(b"garbage")),
        Err(Reject::Malformed)
    );
    let huge = Bytes::from(vec![0; 3 << 20]);
    assert!(check(1, huge).is_err());
    let refused = Err(Reject::BadRequest);
    assert_eq!(
        checker.check_batch(&batch(&[bundle(2, 1).raw().clone()])),
        refused
    );
    assert_eq!(
        checker.check_batch(&batch(&[Bytes::from_static(b"no bundle")])),
        refused
    );
    assert_eq!(checker.check_batch(&Batch::null()), Ok(()));
    assert_eq!(verifier.count(), 1, "only what may be valid is verified");
}

#[test]
fn the_same_bundle_twice_in_one_go_is_a_duplicate() {
    let (checker, _) = byzantine();
    let frame = (client(1), bundle(1, 1).raw().clone());
    let verdicts = checker.check_clients(vec![frame.clone(), frame]);
    assert_eq!(verdicts, [Ok(bundle(1, 1)), Err(Reject::Duplicate)]);
}

#[test]
fn row_5_an_oversized_batch_is_refused_before_its_bundles_are_looked_at() {
    let (checker, verifier) = byzantine();
    let big = Bytes::from(vec![0; 5 << 20]);
    assert_eq!(checker.check_batch(&batch(&[big])), Err(Reject::TooLarge));
    assert_eq!(verifier.count(), 0);
}

#[test]
fn a_crash_cluster_verifies_only_where_the_client_is() {
    let (checker, verifier) = checker(FaultModel::Crash, ClientAdmission::Any);
    let raw = bundle(1, 1).raw().clone();
    assert!(checker.check_forwarded(vec![raw.clone()]).is_ok());
    assert_eq!(verifier.count(), 0);
    assert!(checker.check_client(&client(1), raw).is_ok());
    assert_eq!(verifier.count(), 1);
}

#[test]
fn the_cache_is_bounded_and_keeps_the_newest() {
    let cache = VerifiedCache::new(320);
    let signature = bundle(1, 1).signed().signature;
    let digest = |n: u64| Digest::of(&n.to_le_bytes());
    for n in 0..10_000 {
        cache.insert(digest(n), signature);
    }
    assert!(cache.len() <= 320 && cache.len() >= 160, "{}", cache.len());
    assert!((9_960..10_000).all(|n| cache.contains(&digest(n), &signature)));
    assert!(!cache.contains(&digest(0), &signature));
}

#[test]
fn clients_are_spread_over_workers_and_keep_theirs() {
    let mut counts = [0; 4];
    for number in 0..200 {
        let worker = ByClient.worker_of(&client(number), 4);
        assert_eq!(worker, ByClient.worker_of(&client(number), 4));
        counts[worker] += 1;
    }
    assert!(counts.iter().all(|count| *count > 25), "{counts:?}");
}

#[test]
fn the_pool_is_the_cores_pre_processing() {
    let mut pool = RequestPool::new(&Limits::default());
    let opened =
        |number| RequestBundle::open(client(number), &Digest::of(b"genesis"), &key(number));
    let pre_processing: &mut dyn RequestPreProcessing = &mut pool;
    let (a, b) = (opened(1), opened(2));
    let forwarded = vec![a.clone(), a.clone()];
    let verdicts = pre_processing.process_forwarded_requests(forwarded, Time::ZERO);
    assert_eq!(verdicts, [Insertion::Queued, Insertion::Duplicate]);
    pre_processing.process_stopped_requests(vec![b], Time::ZERO);
    pre_processing.process_decided_batch(&[a]);
    assert_eq!(pool.len(), 1);
}
