//! Money is conserved, whatever is asked, fails, or runs at the same time.

use crate::bank::{Audit, Bank, Refusal, Reply, Request};
use atlas_common::rng::SeededRng;
use atlas_common::{AgreedTime, SeqNo};
use atlas_smr::prelude::*;
use atlas_smr_execution::state::through_checkpoint;

fn ask(books: &mut DivisibleMap, request: Request) -> Reply {
    let mut cx = ExecutionContext::standalone(SeqNo(1), AgreedTime::default());
    Bank.update(books, request, &mut cx)
}

fn audit(books: &DivisibleMap) -> Audit {
    match Bank.read(books, Request::Audit) {
        Reply::Audit(audit) => audit,
        other => unreachable!("{other:?}"),
    }
}

fn open(books: &mut DivisibleMap, account: u64, deposit: u64) -> Reply {
    ask(books, Request::Open { account, deposit })
}

fn transfer(books: &mut DivisibleMap, from: u64, to: u64, amount: u64) -> Reply {
    ask(books, Request::Transfer { from, to, amount })
}

/// With numbers at the edge of what an account can hold.
fn any_request(random: &mut SeededRng) -> Request {
    let account = random.below(12);
    let amount = match random.below(4) {
        0 => u64::MAX - random.below(3),
        _ => random.below(1000),
    };
    match random.below(10) {
        0..=1 => Request::Open {
            account,
            deposit: amount,
        },
        2 => Request::Balance { account },
        3 => Request::Audit,
        _ => Request::Transfer {
            from: account,
            to: random.below(12),
            amount,
        },
    }
}

#[test]
fn a_transfer_moves_all_or_nothing() {
    let mut books = Bank.initial_state();
    assert_eq!(open(&mut books, 1, 100), Reply::Opened);
    assert_eq!(open(&mut books, 2, u64::MAX), Reply::Opened);
    assert_eq!(open(&mut books, 3, 0), Reply::Opened);
    let refused = |refusal| Reply::Refused(refusal);
    assert_eq!(open(&mut books, 1, 5), refused(Refusal::AlreadyOpen));
    assert_eq!(
        transfer(&mut books, 1, 3, 101),
        refused(Refusal::TooLittleMoney)
    );
    assert_eq!(
        transfer(&mut books, 1, 2, 1),
        refused(Refusal::TooMuchMoney)
    );
    assert_eq!(
        transfer(&mut books, 1, 9, 1),
        refused(Refusal::NoSuchAccount(9))
    );
    assert_eq!(
        transfer(&mut books, 1, 1, 100),
        Reply::Transferred { left: 100 }
    );
    assert_eq!(
        transfer(&mut books, 1, 3, 40),
        Reply::Transferred { left: 60 }
    );
    assert_eq!(
        ask(&mut books, Request::Balance { account: 3 }),
        Reply::Balance(40)
    );
    assert!(audit(&books).money_is_conserved());
    let write = Bank.read(
        &books,
        Request::Open {
            account: 7,
            deposit: 1,
        },
    );
    assert_eq!(write, refused(Refusal::ReadOnly));
}

#[test]
fn money_is_conserved_under_any_requests_and_through_checkpoints() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut random = SeededRng::new(seed);
        let mut books = Bank.initial_state();
        for step in 0..500 {
            ask(&mut books, any_request(&mut random));
            assert!(audit(&books).money_is_conserved(), "step {step}");
        }
        assert!(audit(&books).accounts > 0);
        let Ok((_, thawed)) = through_checkpoint(&books, 1024) else {
            unreachable!("a checkpoint")
        };
        assert_eq!(audit(&thawed), audit(&books));
    }
}

/// What a request does not declare, it neither looks at nor changes.
#[test]
fn requests_without_a_common_key_may_change_places() {
    for seed in 0..50 {
        println!("seed {seed}");
        let mut random = SeededRng::new(seed);
        let mut books = Bank.initial_state();
        for _ in 0..100 {
            ask(&mut books, any_request(&mut random));
        }
        for _ in 0..200 {
            let (one, other) = (any_request(&mut random), any_request(&mut random));
            if Bank.keys(&one).meets(&Bank.keys(&other)) {
                continue;
            }
            let mut swapped = books.clone();
            let first = (ask(&mut books, one.clone()), ask(&mut books, other.clone()));
            let second = (ask(&mut swapped, other), ask(&mut swapped, one));
            assert_eq!(first, (second.1, second.0));
            assert_eq!(books, swapped);
        }
    }
}

#[tokio::test]
async fn a_cluster_keeps_its_books() {
    let options = LocalClusterOptions::default();
    let Ok(()) = crate::demonstrate(options).await else {
        unreachable!("the demonstration failed")
    };
}
