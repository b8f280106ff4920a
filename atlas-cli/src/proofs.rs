//! `atlas verify` and `atlas export-proof`: evidence for those who were not there.

use anyhow::{Context, Result};
use atlas_smr::ProtocolRegistry;
use atlas_smr::config::{ClusterConfig, NodeConfig};
use atlas_smr::inspect::Inspection;
use atlas_smr::proof::{PROOF_BYTES_MAX, ProofFile};
use atlas_smr::protocol::SeqNo;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args, Debug)]
pub(crate) struct VerifyArguments {
    /// The proof file
    #[arg(value_name = "PROOF")]
    proof: PathBuf,
    /// The cluster file that it is checked against
    #[arg(long, value_name = "CLUSTER_FILE")]
    cluster: PathBuf,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ExportArguments {
    /// The replica's directory, or its node.toml; the replica must not be running
    #[arg(value_name = "REPLICA")]
    node: PathBuf,
    #[command(flatten)]
    what: What,
    /// Where to write the proof; must not exist
    #[arg(long, short, value_name = "PROOF")]
    output: PathBuf,
}

#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct What {
    /// Of this decision
    #[arg(long, value_name = "SEQ")]
    decision: Option<u64>,
    /// Of the newest certified checkpoint, or of this one
    #[arg(long, value_name = "SEQ")]
    checkpoint: Option<Option<u64>>,
}

/// The exit code of a proof that does not hold.
const INVALID: u8 = 1;
/// The exit code of a proof that could not be looked at.
const UNREADABLE: u8 = 2;

pub(crate) fn verify(arguments: VerifyArguments) -> Result<ExitCode> {
    let registry = ProtocolRegistry::default();
    let cluster = ClusterConfig::load(&arguments.cluster, &registry.known())?;
    let proof = match read(&arguments.proof) {
        Ok(bytes) => ProofFile::decode(&bytes).map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    let path = arguments.proof.display();
    let proof = match proof {
        Ok(proof) => proof,
        Err(error) => {
            eprintln!("error: {path}: {error:#}");
            return Ok(ExitCode::from(UNREADABLE));
        }
    };
    match proof.verify(&cluster, &registry) {
        Ok(statement) => {
            println!("valid: {statement}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("error: {path}: {error}");
            Ok(ExitCode::from(INVALID))
        }
    }
}

/// A file of at most so many bytes as a proof can have.
fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(PROOF_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(
        bytes.len() <= PROOF_BYTES_MAX,
        "more than {PROOF_BYTES_MAX} bytes: this is not a proof file"
    );
    Ok(bytes)
}

pub(crate) fn export(arguments: ExportArguments) -> Result<ExitCode> {
    let registry = ProtocolRegistry::default();
    let node = NodeConfig::load(&arguments.node, &registry.known())?;
    let inspection = Inspection::read(&node, &registry)?;
    let proof = match arguments.what {
        What {
            decision: Some(seq),
            ..
        } => inspection.decision(&node, SeqNo(seq))?,
        What { checkpoint, .. } => inspection.checkpoint(&node, checkpoint.flatten().map(SeqNo))?,
    };
    // What is handed on is what holds.
    let statement = proof.verify(&node.cluster, &registry)?;
    let path = arguments.output.display();
    let mut file =
        File::create_new(&arguments.output).with_context(|| format!("cannot create {path}"))?;
    std::io::Write::write_all(&mut file, &proof.encode())
        .with_context(|| format!("cannot write {path}"))?;
    println!("{path}: {statement}");
    Ok(ExitCode::SUCCESS)
}
