// SPDX-License-Identifier: Apache-2.0
//! `knarr-agent datapath check`: compares what the Service maps point to with what is there. Needs root, but no running
//! agent. Prints only; the comparison is `knarr_datapath::check`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use knarr_datapath::check::Report;
use knarr_datapath::view::PortView;

use super::service::MapArgs;

/// Arguments of `datapath`.
#[derive(Args)]
pub struct DatapathArgs {
    #[command(flatten)]
    pub(super) maps: MapArgs,
    #[command(subcommand)]
    command: DatapathCommand,
}

#[derive(Subcommand)]
enum DatapathCommand {
    /// Look for slots, tables and backends that Services lead to and that are missing; exit with 1 when there are any.
    Check,
}

/// Runs it.
pub fn run(args: DatapathArgs) -> anyhow::Result<ExitCode> {
    let DatapathCommand::Check = args.command;
    let (inspector, ports) = args.maps.open()?;
    let report = inspector.check()?;
    print(&mut std::io::stdout().lock(), &ports, &report)?;
    Ok(if report.missing_entries.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(out: &mut impl Write, ports: &[PortView], report: &Report) -> anyhow::Result<()> {
    for missing_entry in &report.missing_entries {
        let port = ports.iter().find(|port| port.id == missing_entry.service);
        let name = port.map_or_else(
            || format!("id-{}", missing_entry.service),
            PortView::service,
        );
        writeln!(out, "MISSING: {name}: {missing_entry}")?;
    }
    let Report {
        addresses,
        slots,
        chunks,
        backends,
        missing_entries,
    } = report;
    writeln!(
        out,
        "{addresses} addresses of Services lead to {slots} slots and {chunks} chunks of tables; there are {backends} backends."
    )?;
    match missing_entries.len() {
        0 => writeln!(out, "Nothing is missing.")?,
        _ => writeln!(
            out,
            "Connections that meet what is missing are refused. Start the agent again: it repairs its maps."
        )?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_datapath::check::{Missing, MissingEntry};
    use knarr_ebpf_common::{PROTOCOL_TCP, SCOPE_CLUSTER_IP, ServiceKey, mapped};

    fn printed(missing_entries: Vec<MissingEntry>) -> String {
        let report = Report {
            addresses: 1,
            slots: 2,
            chunks: 0,
            backends: 2,
            missing_entries,
        };
        let mut out = Vec::new();
        print(&mut out, &[], &report).expect("it is written to memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_is_missing_is_named_with_its_service_and_what_to_do() {
        let missing_entry = MissingEntry {
            key: ServiceKey {
                vip: mapped([10, 96, 0, 7]),
                port_be: 80_u16.to_be(),
                protocol: PROTOCOL_TCP,
                scope: SCOPE_CLUSTER_IP,
            },
            service: 4,
            set: 5,
            generation: 1,
            missing: Missing::Slots(vec![0], 3),
        };
        let text = printed(vec![missing_entry]);
        assert!(text.contains("MISSING: id-4: 10.96.0.7:80"), "{text}");
        assert!(text.contains("of 3 slots these are missing: 0"), "{text}");
        assert!(text.contains("Start the agent again"), "{text}");
        assert!(printed(Vec::new()).ends_with("Nothing is missing.\n"));
    }
}
