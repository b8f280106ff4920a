//! `atlas bench` with a large state, made small.

use crate::processes::{atlas, run};
use serde_json::Value;

/// The JSON that a benchmark prints on a line of its own behind what it tells on the way.
fn bench(arguments: &[&str]) -> Value {
    let (code, output) = run(atlas().arg("bench").arg("--json").args(arguments));
    assert_eq!(code, 0, "{output}");
    let (json, _) = output.split_once("\n}\n").expect("a JSON object");
    serde_json::from_str(&format!("{json}\n}}")).expect("JSON")
}

#[test]
fn a_run_over_a_checkpoint_tells_what_it_cost_and_what_it_wrote() {
    let report = bench(&[
        "--in-process",
        "--state",
        "divisible",
        "--state-entries",
        "2000",
        "--touch-percent",
        "10",
        "--rate",
        "200",
        "--seed",
        "5",
        "--checkpoint-interval",
        "50",
        "--clients",
        "2",
        "--open-max",
        "50",
        "--seconds",
        "1",
        "--warm-up-seconds",
        "0",
        "--durability",
        "async",
    ]);
    let number = |path: &str| {
        let value = report.pointer(path).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no {path} in {report}"))
    };
    assert_eq!(report["errors"], 0);
    assert_eq!((report["seed"].as_u64(), number("/rate")), (Some(5), 200.0));
    assert_eq!(report["state"]["kind"], "divisible");
    assert_eq!(report["state"]["touched_entries"], 200);
    for calls in ["whole", "without_checkpoint", "with_checkpoint"] {
        assert!(number(&format!("/{calls}/seconds")) >= 0.0);
        assert!(number(&format!("/{calls}/latency_us/p99")) >= 0.0);
    }
    let operations = |calls: &str| number(&format!("/{calls}/operations"));
    assert_eq!(
        operations("whole"),
        operations("without_checkpoint") + operations("with_checkpoint")
    );
    assert!(operations("whole") >= 100.0, "{report}");
    // 2000 entries of 256 B and more.
    let state_bytes = number("/checkpoints/0/state_bytes");
    assert!((512_000.0..700_000.0).contains(&state_bytes), "{report}");
    assert!(number("/checkpoints/0/bytes_written") > 0.0);
    assert!(number("/checkpoints/0/to_us") > number("/checkpoints/0/from_us"));
}
