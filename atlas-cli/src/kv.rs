//! `atlas kv`: the key-value store.

use crate::{cluster, transfer};
use anyhow::{Context, Result, bail};
use atlas_kv::{Compare, Kv, KvOperation, KvOutcome, KvReply, KvRequest};
use atlas_smr::{ApplicationClient, Consistency};
use bytes::Bytes;
use clap::Subcommand;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The client's directory, or its client.toml
    #[arg(long, value_name = "CLIENT")]
    client: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Set a key
    Put { key: String, value: String },
    /// Print the value of a key; exit code 1 when it has none
    Get {
        key: String,
        /// Take the word of replicas that may be behind, without ordering the read
        #[arg(long)]
        stale: bool,
    },
    /// Remove a key; exit code 1 when it was not there
    Delete { key: String },
    /// Set a key if it holds what is expected; exit code 1 when it does not
    Cas {
        key: String,
        /// What it must hold; left out: it must be absent
        #[arg(long)]
        expect: Option<String>,
        /// What it shall hold; left out: it is removed
        #[arg(long)]
        new: Option<String>,
    },
    /// Print entries in the order of their keys
    List {
        /// Only keys that begin with this
        #[arg(default_value = "")]
        prefix: String,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Several reads and writes as one operation: put:KEY=VALUE get:KEY delete:KEY
    Txn {
        /// Only if KEY holds VALUE (KEY alone: if it is absent); may be given several times
        #[arg(long = "if", value_name = "KEY[=VALUE]")]
        conditions: Vec<String>,
        /// What to do
        #[arg(required = true, value_name = "OPERATION")]
        operations: Vec<String>,
        /// What to do when a condition does not hold; may be given several times
        #[arg(long = "else", value_name = "OPERATION")]
        otherwise: Vec<String>,
    },
    /// Put every entry of a JSON Lines file of {"key": …, "value": …} (-: standard input)
    Import { file: PathBuf },
    /// Write every entry as JSON Lines (-: standard output)
    Export { file: PathBuf },
}

/// The exit code of "there is no such thing": not an error, and no success.
const ABSENT: u8 = 1;

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = cluster::load_client(&arguments.client)?;
    cluster::runtime()?.block_on(async {
        let client = ApplicationClient::new(cluster::ready_client(&config).await?);
        let result = carry_out(&client, arguments.command).await;
        client.client().close().await;
        result
    })
}

async fn carry_out(client: &ApplicationClient<Kv>, command: Command) -> Result<ExitCode> {
    let request = match command {
        Command::Import { file } => {
            let count = transfer::import(client, &file).await?;
            println!("{count} entries imported");
            return Ok(ExitCode::SUCCESS);
        }
        Command::Export { file } => {
            let count = transfer::export(client, &file).await?;
            eprintln!("{count} entries exported");
            return Ok(ExitCode::SUCCESS);
        }
        Command::Get { key, stale } => {
            let consistency = if stale {
                Consistency::Stale
            } else {
                Consistency::Linearizable
            };
            return show(client.read(&KvRequest::Get { key }, consistency).await?);
        }
        Command::Put { key, value } => KvRequest::Put {
            key,
            value: value.into(),
        },
        Command::Delete { key } => KvRequest::Delete { key },
        Command::Cas { key, expect, new } => KvRequest::Cas {
            key,
            expect: expect.map(Bytes::from),
            new: new.map(Bytes::from),
        },
        Command::List { prefix, limit } => KvRequest::List {
            prefix,
            after: None,
            limit,
        },
        Command::Txn {
            conditions,
            operations,
            otherwise,
        } => KvRequest::Txn {
            compares: conditions.iter().map(|text| condition(text)).collect(),
            then: operations
                .iter()
                .map(|text| operation(text))
                .collect::<Result<_>>()?,
            otherwise: otherwise
                .iter()
                .map(|text| operation(text))
                .collect::<Result<_>>()?,
        },
    };
    show(client.call(&request).await?)
}

fn condition(text: &str) -> Compare {
    let (key, expect) = match text.split_once('=') {
        Some((key, value)) => (key, Some(Bytes::from(value.to_owned()))),
        None => (text, None),
    };
    Compare {
        key: key.to_owned(),
        expect,
    }
}

fn operation(text: &str) -> Result<KvOperation> {
    let expected = "expected put:KEY=VALUE, get:KEY or delete:KEY";
    let (what, rest) = text
        .split_once(':')
        .with_context(|| format!("`{text}`: {expected}"))?;
    let key = rest.to_owned();
    Ok(match what {
        "get" => KvOperation::Get { key },
        "delete" => KvOperation::Delete { key },
        "put" => {
            let (key, value) = rest
                .split_once('=')
                .with_context(|| format!("`{text}`: {expected}"))?;
            KvOperation::Put {
                key: key.to_owned(),
                value: value.to_owned().into(),
            }
        }
        _ => bail!("`{text}`: {expected}"),
    })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn show(reply: KvReply) -> Result<ExitCode> {
    let done = |held: bool| {
        if held {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(ABSENT)
        }
    };
    Ok(match reply {
        KvReply::Value(Some(value)) => {
            println!("{}", text(&value));
            done(true)
        }
        KvReply::Value(None) => {
            eprintln!("no such key");
            done(false)
        }
        KvReply::Put { previous } => {
            println!("{}", if previous { "replaced" } else { "created" });
            done(true)
        }
        KvReply::Deleted { existed } => {
            println!("{}", if existed { "deleted" } else { "was not there" });
            done(existed)
        }
        KvReply::Cas { swapped: true, .. } => {
            println!("swapped");
            done(true)
        }
        KvReply::Cas { current, .. } => {
            let holds = current.map_or_else(|| "nothing".to_owned(), |value| text(&value));
            println!("not swapped: it holds {holds}");
            done(false)
        }
        KvReply::Entries { entries, more } => {
            for (key, value) in entries {
                println!("{key}\t{}", text(&value));
            }
            if more {
                eprintln!("there are more; raise --limit or use export");
            }
            done(true)
        }
        KvReply::Txn { succeeded, replies } => {
            println!(
                "{}",
                if succeeded {
                    "conditions held"
                } else {
                    "conditions did not hold"
                }
            );
            replies.iter().for_each(show_outcome);
            done(succeeded)
        }
        KvReply::Refused(error) => bail!("refused: {error}"),
    })
}

fn show_outcome(outcome: &KvOutcome) {
    match outcome {
        KvOutcome::Value(Some(value)) => println!("  get: {}", text(value)),
        KvOutcome::Value(None) => println!("  get: no such key"),
        KvOutcome::Put { previous } => {
            println!("  put: {}", if *previous { "replaced" } else { "created" });
        }
        KvOutcome::Deleted { existed } => {
            println!(
                "  delete: {}",
                if *existed { "deleted" } else { "was not there" }
            );
        }
    }
}
