//! `atlas inspect`: what a stopped replica left on its disk, and whether it is whole.

use anyhow::Result;
use atlas_smr::ProtocolRegistry;
use atlas_smr::config::NodeConfig;
use atlas_smr::inspect::{InspectedCheckpoint, InspectedLog, Inspection};
use atlas_smr::protocol::Lsn;
use std::path::PathBuf;
use std::process::ExitCode;

/// Records are cut to this length where they are printed.
const RECORD_CHARS_MAX: usize = 160;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The replica's directory, or its node.toml; the replica must not be running
    #[arg(value_name = "REPLICA")]
    node: PathBuf,
    /// Print every record of the log, too
    #[arg(long)]
    records: bool,
}

/// The exit code of "something is damaged".
const DAMAGED: u8 = 1;

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let registry = ProtocolRegistry::default();
    let node = NodeConfig::load(&arguments.node, &registry.known())?;
    let inspection = Inspection::read(&node, &registry)?;
    println!(
        "replica {}, {}, {}",
        node.id,
        inspection.protocol,
        inspection.directory.display()
    );
    match &inspection.born {
        Ok(true) => println!("birth record: whole"),
        Ok(false) => println!(
            "birth record: none; the replica will take no part until it has asked its peers"
        ),
        Err(error) => println!("birth record: DAMAGED: {error}"),
    }
    match &inspection.log {
        Ok(log) => show_log(log),
        Err(error) => println!("log: DAMAGED: {error}"),
    }
    if inspection.checkpoints.is_empty() {
        println!("checkpoints: none");
    }
    for checkpoint in &inspection.checkpoints {
        show_checkpoint(checkpoint);
    }
    if arguments.records
        && let (Ok(log), Some(tools)) = (&inspection.log, registry.tools(inspection.protocol))
    {
        for (lsn, record) in &log.records {
            let text = tools
                .describe(record)
                .unwrap_or_else(|error| format!("not a record of this protocol: {error}"));
            println!("{lsn} {}", shortened(&text));
        }
    }
    if inspection.is_whole() {
        println!("everything is whole");
        Ok(ExitCode::SUCCESS)
    } else {
        println!("something is damaged");
        Ok(ExitCode::from(DAMAGED))
    }
}

fn show_log(log: &InspectedLog) {
    let bytes: usize = log.records.iter().map(|(_, record)| record.len()).sum();
    let ends = |records: &[(Lsn, bytes::Bytes)]| Some((records.first()?.0, records.last()?.0));
    match ends(&log.records) {
        Some((first, last)) => println!(
            "log: records {first} to {last}, {} records, {bytes} bytes, all whole",
            log.records.len()
        ),
        None => println!("log: no records"),
    }
    let decided = &log.decisions.decided;
    if let (Some((first, _)), Some((last, _))) =
        (decided.first_key_value(), decided.last_key_value())
    {
        println!("decisions: {first} to {last}");
    }
    if let Some(torn) = &log.torn {
        println!(
            "log: ends in an unfinished write, {} from byte {}; the next start cuts it off, and \
             nothing acknowledged is in it",
            torn.file, torn.offset
        );
    }
    if let (Some(first), count) = (log.foreign.first(), log.foreign.len()) {
        println!("log: {count} records are none of this protocol, the first is {first}");
    }
}

fn show_checkpoint(checkpoint: &InspectedCheckpoint) {
    let seq = checkpoint.seq;
    match &checkpoint.found {
        Ok(Some(found)) => {
            let certificate = &found.stored.certificate;
            let voters: Vec<String> = certificate
                .votes
                .iter()
                .map(|(id, _)| id.to_string())
                .collect();
            let by = match voters.is_empty() {
                true => String::new(),
                false => format!(", certified by replicas {}", voters.join(", ")),
            };
            println!("checkpoint {seq}: state {}{by}", certificate.id.state);
        }
        Ok(None) => println!("checkpoint {seq}: not certified yet"),
        Err(error) => println!("checkpoint {seq}: DAMAGED: {error}"),
    }
    for damage in &checkpoint.damage {
        println!("checkpoint {seq}: DAMAGED: {damage}");
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(RECORD_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
