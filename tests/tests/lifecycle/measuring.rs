// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench --quick`: every bench runs to its end and writes the metrics that scripts outside this repository
//! read, by the names that they read.

use knarr_tests::Outcome;
use knarr_tests::lab::{target_dir, xtask};
use serde_json::Value;

/// What each figure is of, without the cases and sizes of its variants.
const METRICS: [(&str, &[&str]); 3] = [
    (
        "datapath",
        &[
            "connect_us_1",
            "connect_us_direct_1",
            "connect_us_iptables_1",
            "connect_us_nftables_1",
            "connect_ratio_1",
            "connect_ratio_iptables_1",
            "connect_ratio_nftables_1",
            "connect_other_us_1",
            "connect_other_ratio_1",
            "connect_other_ratio_iptables_1",
            "connect_other_ratio_nftables_1",
            "rr_us_1",
            "rr_ratio_1",
            "rr_ratio_iptables_1",
            "rr_ratio_nftables_1",
            "nodeport_connect_us_local_1",
            "nodeport_connect_us_remote_1",
            "nodeport_connect_ratio_local_1",
            "nodeport_connect_ratio_remote_1",
            "nodeport_connect_ratio_iptables_local_1",
            "nodeport_connect_ratio_nftables_remote_1",
            "program_all_ms_1",
            "program_all_ms_iptables_1",
            "program_all_ms_nftables_1",
        ],
    ),
    (
        "idle",
        &[
            "control_rss_mb",
            "agent_rss_mb",
            "control_cpu_percent",
            "agent_cpu_percent",
            "store_writes",
        ],
    ),
    (
        "start",
        &[
            "cold_start_ms",
            "post_to_running_ms_p50",
            "post_to_running_ms_p99",
        ],
    ),
];

#[test]
fn every_bench_writes_its_metrics_by_their_names() {
    let outcome = Outcome::of(&mut xtask(&["bench", "--quick"]), "");
    let printed = outcome.stdout + &outcome.stderr;
    assert_eq!(outcome.code, Some(0), "{printed}");
    for (bench, metrics) in METRICS {
        let path = target_dir().join(format!("bench/quick/{bench}.json"));
        let written = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file: Value = serde_json::from_slice(&written).expect("JSON");
        for field in ["commit", "kernel", "started"] {
            let value = file[field].as_str().unwrap_or_default();
            assert!(!value.is_empty(), "{bench}: no {field}");
        }
        let results = file["results"].as_array().expect("results");
        for metric in metrics {
            let [figure] = results
                .iter()
                .filter(|figure| figure["metric"] == *metric)
                .collect::<Vec<_>>()[..]
            else {
                panic!("{bench}: not one {metric} in {file:#}");
            };
            let [value, low, high] = ["value", "low", "high"].map(|of| {
                figure[of]
                    .as_f64()
                    .unwrap_or_else(|| panic!("{metric}: no {of} in {figure}"))
            });
            assert!(low <= value && value <= high, "{figure}");
            assert!(
                printed.contains(&format!("| `{metric}` |")),
                "{metric} is not printed"
            );
        }
    }
}
