//! A replicated bank: accounts, transfers, and an audit that says whether money is conserved.
//!
//! ```console
//! $ cargo run --example banking                             # a cluster in this program
//! $ cargo run --example banking -- --protocol raft          # by another protocol
//!
//! $ atlas init --replicas 4 --dir bank                      # the files of a real cluster
//! $ cargo run --example banking -- bank/replica-0           # one of its replicas
//! ```

mod bank;
#[cfg(test)]
mod tests;

use atlas_smr::prelude::*;
use bank::{Audit, Bank, Reply, Request};

const ACCOUNTS: u64 = 100;
const DEPOSIT: u64 = 1_000;
const TELLERS: u64 = 20;
const TRANSFERS: u64 = 50;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [directory] => serve(directory).await,
        _ => demonstrate(LocalClusterOptions::from_arguments(arguments)?).await,
    }
}

/// One replica of a real cluster.
async fn serve(directory: &str) -> Result<(), Box<dyn std::error::Error>> {
    let replica = Replica::builder(Bank).config_file(directory)?.start()?;
    println!("replica {} is ready; Ctrl-C stops it", replica.id());
    tokio::signal::ctrl_c().await?;
    replica.shutdown().await;
    Ok(())
}

/// Tellers move money about while one replica goes away and comes back.
async fn demonstrate(options: LocalClusterOptions) -> Result<(), Box<dyn std::error::Error>> {
    let mut cluster = LocalCluster::start(Bank, options).await?;
    let bank = cluster.client().clone();
    for account in 0..ACCOUNTS {
        let deposit = DEPOSIT;
        let reply = bank.call(&Request::Open { account, deposit }).await?;
        assert_eq!(reply, Reply::Opened);
    }
    println!("{ACCOUNTS} accounts are open, with {DEPOSIT} each");

    let tellers: Vec<_> = (0..TELLERS)
        .map(|teller| tokio::spawn(work(bank.clone(), teller)))
        .collect();
    cluster.stop(0).await;
    println!("replica 0 is gone");
    let audit = audit(&bank).await?;
    println!("an audit in between: {audit:?}");
    assert!(audit.money_is_conserved());
    cluster.restart(0)?;
    println!("replica 0 is back");
    let mut moved = 0;
    for teller in tellers {
        moved += teller.await??;
    }

    let audit = self::audit(&bank).await?;
    println!("{moved} transfers later: {audit:?}");
    assert!(audit.money_is_conserved());
    assert_eq!(audit.held, u128::from(ACCOUNTS * DEPOSIT));
    cluster.shutdown().await;
    Ok(())
}

/// Moves money between accounts; how often that was not refused.
async fn work(bank: ApplicationClient<Bank>, teller: u64) -> Result<u64, CallError> {
    let mut moved = 0;
    for step in 0..TRANSFERS {
        let mixed = (teller * TRANSFERS + step).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let transfer = Request::Transfer {
            from: (mixed >> 40) % ACCOUNTS,
            to: (mixed >> 20) % ACCOUNTS,
            amount: mixed % (2 * DEPOSIT),
        };
        if let Reply::Transferred { .. } = bank.call(&transfer).await? {
            moved += 1;
        }
    }
    Ok(moved)
}

async fn audit(bank: &ApplicationClient<Bank>) -> Result<Audit, Box<dyn std::error::Error>> {
    match bank
        .read(&Request::Audit, Consistency::Linearizable)
        .await?
    {
        Reply::Audit(audit) => Ok(audit),
        other => Err(format!("an audit was answered by {other:?}").into()),
    }
}
