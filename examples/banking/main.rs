//! A replicated bank: accounts, transfers, and an audit that says whether money is conserved.
//!
//! ```console
//! $ cargo run --example banking                             # a cluster in this program
//! $ cargo run --example banking -- --protocol raft          # by another protocol
//!
//! $ cargo run --example banking -- init bank                # a real cluster, as `bank.toml` says
//! $ cargo run --example banking -- bank/replica-0           # one of its replicas
//! $ cargo run --example banking -- client bank/client-0     # tellers at work in it
//! ```

mod bank;
mod setup;
#[cfg(test)]
mod tests;

use atlas_smr::config::ClientConfig;
use atlas_smr::prelude::*;
use atlas_smr::{ProtocolRegistry, connect};
use bank::{Audit, Bank, Refusal, Reply, Request};
use std::time::Duration;
use tokio::task::JoinHandle;

const ACCOUNTS: u64 = 100;
const DEPOSIT: u64 = 1_000;
const TELLERS: u64 = 20;
const TRANSFERS: u64 = 50;
const READY_WITHIN: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [command, directory] if command == "init" => init(directory),
        [command, directory] if command == "client" => visit(directory).await,
        [directory] => serve(directory).await,
        _ => demonstrate(LocalClusterOptions::from_arguments(arguments)?).await,
    }
}

/// The files of a real cluster.
fn init(directory: &str) -> Result<(), Box<dyn std::error::Error>> {
    let made = setup::init(directory.as_ref())?;
    println!("start each replica in a terminal of its own:");
    for replica in &made.replicas {
        println!("  cargo run --example banking -- {}", replica.display());
    }
    for client in &made.clients {
        println!(
            "and send tellers to work:\n  cargo run --example banking -- client {}",
            client.display()
        );
    }
    Ok(())
}

/// One replica of a real cluster.
async fn serve(directory: &str) -> Result<(), Box<dyn std::error::Error>> {
    let replica = Replica::builder(Bank).config_file(directory)?.start()?;
    println!("replica {} is ready; Ctrl-C stops it", replica.id());
    tokio::signal::ctrl_c().await?;
    replica.shutdown().await;
    Ok(())
}

/// Tellers at work in a real cluster.
async fn visit(directory: &str) -> Result<(), Box<dyn std::error::Error>> {
    let known = ProtocolRegistry::default().known();
    let client = connect(&ClientConfig::load(directory.as_ref(), &known)?)?;
    client.ready(READY_WITHIN).await?;
    let bank = ApplicationClient::<Bank>::new(client);
    open_accounts(&bank).await?;
    let moved = all_moved(tellers(&bank)).await?;
    let audit = audit(&bank).await?;
    println!("{moved} transfers later: {audit:?}");
    assert!(audit.money_is_conserved());
    Ok(())
}

/// Those that are there already stay as they are.
async fn open_accounts(bank: &ApplicationClient<Bank>) -> Result<(), Box<dyn std::error::Error>> {
    for account in 0..ACCOUNTS {
        let deposit = DEPOSIT;
        let reply = bank.call(&Request::Open { account, deposit }).await?;
        assert!(matches!(
            reply,
            Reply::Opened | Reply::Refused(Refusal::AlreadyOpen)
        ));
    }
    println!("{ACCOUNTS} accounts are open, with {DEPOSIT} each");
    Ok(())
}

type Teller = JoinHandle<Result<u64, CallError>>;

fn tellers(bank: &ApplicationClient<Bank>) -> Vec<Teller> {
    (0..TELLERS)
        .map(|teller| tokio::spawn(work(bank.clone(), teller)))
        .collect()
}

async fn all_moved(tellers: Vec<Teller>) -> Result<u64, Box<dyn std::error::Error>> {
    let mut moved = 0;
    for teller in tellers {
        moved += teller.await??;
    }
    Ok(moved)
}

/// Tellers move money about while one replica goes away and comes back.
async fn demonstrate(options: LocalClusterOptions) -> Result<(), Box<dyn std::error::Error>> {
    let mut cluster = LocalCluster::start(Bank, options).await?;
    let bank = cluster.client().clone();
    open_accounts(&bank).await?;
    let tellers = tellers(&bank);
    cluster.stop(0).await;
    println!("replica 0 is gone");
    let audit = audit(&bank).await?;
    println!("an audit in between: {audit:?}");
    assert!(audit.money_is_conserved());
    cluster.restart(0)?;
    println!("replica 0 is back");
    let moved = all_moved(tellers).await?;
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
