// SPDX-License-Identifier: Apache-2.0
//! Health checks, version and metrics.

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::path::Query;
use super::respond;
use crate::clock;
use crate::core::Core;

/// One check: its name and what is wrong.
type Check = (&'static str, Result<(), String>);

fn checks(core: &Core) -> Vec<Check> {
    let stats = core.store.stats();
    let stored = stats.revision.0;
    let store = match stats.failing {
        0 => Ok(()),
        times => Err(format!("the last {times} commits failed; the log says why")),
    };
    let applied = core.applied();
    // A healthy cache is never more than a moment behind; a big gap means that it is stuck.
    const BEHIND_MAX: u64 = 100_000;
    let cache = if stored.saturating_sub(applied) < BEHIND_MAX {
        Ok(())
    } else {
        Err(format!(
            "the watch cache is at revision {applied}, the store at {stored}"
        ))
    };
    vec![("ping", Ok(())), ("store", store), ("watch-cache", cache)]
}

/// `/livez`, `/readyz`, `/healthz`, each with `?verbose` and `/CHECK`.
pub(crate) fn check(core: &Core, path: &str, query: &Query) -> Response {
    let mut parts = path.trim_matches('/').splitn(2, '/');
    let family = parts.next().unwrap_or_default().to_owned();
    let mut checks = checks(core);
    if let Some(one) = parts.next() {
        checks.retain(|(name, _)| *name == one);
        if checks.is_empty() {
            return respond::no_such_path();
        }
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut lines = String::new();
    let mut failed = false;
    for (name, result) in &checks {
        match result {
            _ if excluded.contains(name) => lines.push_str(&format!("[+]{name} excluded: ok\n")),
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    if failed {
        lines.push_str(&format!("{family} check failed\n"));
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, lines);
    }
    if query.has("verbose") {
        lines.push_str(&format!("{family} check passed\n"));
        return respond::text(StatusCode::OK, lines);
    }
    respond::text(StatusCode::OK, "ok")
}

/// `/version`
pub(crate) fn version(core: &Core) -> Response {
    let config = &core.config;
    let mut numbers = config.git_version.trim_start_matches('v').split('.');
    let built = Timestamp::from_second(config.build_time_s).unwrap_or(Timestamp::UNIX_EPOCH);
    respond::indented(&json!({
        "major": numbers.next().unwrap_or_default(),
        "minor": numbers.next().unwrap_or_default(),
        "gitVersion": config.git_version,
        "gitCommit": config.git_commit,
        "gitTreeState": config.git_tree_state,
        "buildDate": clock::rfc3339(built),
        "goVersion": "none (Rust)",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    }))
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `/metrics`
pub(crate) fn metrics(core: &Core) -> Response {
    let stats = core.store.stats();
    let mut text = core.metrics.text();
    // The counters of the store stand before the closing line.
    let end = text.rfind("# EOF").unwrap_or(text.len());
    let extra = format!(
        "# HELP knarr_store_revision The newest revision.\n# TYPE knarr_store_revision gauge\nknarr_store_revision {}\n\
         # HELP knarr_store_writes Transactions that changed something.\n# TYPE knarr_store_writes counter\nknarr_store_writes_total {}\n\
         # HELP knarr_store_commits Durable commits.\n# TYPE knarr_store_commits counter\nknarr_store_commits_total {}\n\
         # HELP knarr_store_failures Commits that failed.\n# TYPE knarr_store_failures counter\nknarr_store_failures_total {}\n\
         # HELP knarr_store_file_bytes Size of the store's file.\n# TYPE knarr_store_file_bytes gauge\nknarr_store_file_bytes {}\n",
        stats.revision, stats.writes, stats.commits, stats.failures, stats.file_bytes
    );
    text.insert_str(end, &extra);
    respond::build(
        StatusCode::OK,
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        text.into(),
    )
}
