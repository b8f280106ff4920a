//! `atlas bounds`: how much memory and disk a replica takes at most.

use anyhow::Result;
use atlas_smr::ProtocolRegistry;
use atlas_smr::bounds::{Bound, Bounds};
use atlas_smr::config::NodeConfig;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// The replica's directory, or its node.toml
    #[arg(value_name = "REPLICA")]
    node: PathBuf,
    /// The size of the application's state, in memory or encoded, whichever is more
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    state_bytes: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let node = NodeConfig::load(&arguments.node, &ProtocolRegistry::default().known())?;
    let bounds = Bounds::of(&node, arguments.state_bytes);
    if arguments.json {
        println!("{:#}", json(&bounds));
        return Ok(ExitCode::SUCCESS);
    }
    show("memory", &bounds.memory, bounds.memory_bytes());
    println!();
    show("disk", &bounds.disk, bounds.disk_bytes());
    if arguments.state_bytes == 0 {
        println!("\nThe application's state is not in it: --state-bytes says how large it is.");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(resource: &str, bounds: &[Bound], total: u64) {
    println!("{:>12}  {resource}", "MiB at most");
    for bound in bounds {
        println!(
            "{:>12}  {}: {}",
            mib(bound.bytes),
            bound.what,
            bound.formula
        );
    }
    println!("{:>12}  all of the {resource}", mib(total));
}

fn mib(bytes: u64) -> String {
    const MIB: f64 = 1_048_576.0;
    format!("{:.1}", bytes as f64 / MIB)
}

fn json(bounds: &Bounds) -> serde_json::Value {
    let list = |bounds: &[Bound]| -> Vec<serde_json::Value> {
        let one = |bound: &Bound| {
            serde_json::json!({
                "what": bound.what,
                "formula": bound.formula,
                "bytes": bound.bytes,
            })
        };
        bounds.iter().map(one).collect()
    };
    serde_json::json!({
        "memory_bytes": bounds.memory_bytes(),
        "disk_bytes": bounds.disk_bytes(),
        "memory": list(&bounds.memory),
        "disk": list(&bounds.disk),
    })
}
