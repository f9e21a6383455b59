// SPDX-License-Identifier: Apache-2.0
//! The command line of `cargo xtask`: what there is to ask for, and nothing of how it is done. Called by `main`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::lab::enter::EnterRequest;
use crate::{bench, ci, demo, dist, ebpf, lab, paths, setup, test, ui, up, vm};

/// Everything that can be done with a checkout of Knarr.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
#[command(
    after_help = "KNARR_LAB=NAME in the environment makes every command act on a lab of its own under target/labs/NAME/; \
                  `cargo xtask down` without it ends all of them."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building, running and testing need: Debian packages, bpf-linker, kubectl and helm.
    Setup,
    /// Compile the kernel programs to target/ebpf/knarr-ebpf.
    BuildEbpf,
    /// Start one control plane and some nodes, each in namespaces of its own; everything is kept under target/up/.
    Up {
        /// How many nodes, called node-1, node-2 and so on.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
        nodes: u32,
    },
    /// End what `up` started and remove all of it, also after an `up` that was killed half-way.
    Down,
    /// Set up, build, start two nodes and show a Deployment behind a Service.
    Demo,
    /// Run the tests: all tiers, or only those named.
    Test {
        /// unit, bpf, node, cluster, kubectl, vm; all when none is named
        #[arg(value_enum)]
        tiers: Vec<test::Tier>,
        /// Run only tests whose name contains this.
        #[arg(long)]
        filter: Option<String>,
        /// Run only what differs from this revision can affect; without a revision, what is not committed.
        #[arg(
            long,
            value_name = "REVISION",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "HEAD"
        )]
        changed: Option<String>,
    },
    /// Measure; writes target/bench/NAME.json and prints the same as a table.
    Bench {
        /// datapath, idle, start
        #[arg(value_enum)]
        names: Vec<bench::Name>,
        /// One small turn of everything into target/bench/quick/: shows that the bench works; its figures mean nothing
        #[arg(long)]
        quick: bool,
    },
    /// Everything a change has to pass: format, tidy, dependency rule, lints and all test tiers.
    Ci {
        /// Leave the test tiers out, for a caller that has just run them.
        #[arg(long)]
        without_tests: bool,
    },
    /// Pack both programs with their units and licences into an archive in target/dist-archives/.
    Dist,
    /// Run a command as a process of a node, or do something bad to the node.
    Node {
        /// node-1, node-2, ...
        node: String,
        #[command(flatten)]
        fault: NodeFault,
        /// The command and its arguments, after `--`.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run a command on the control plane's host, or kill or start the control plane.
    Control {
        /// kill -9 of knarr-control.
        #[arg(long, group = "fault")]
        kill: bool,
        /// Start knarr-control again.
        #[arg(long, group = "fault")]
        start: bool,
        /// The command and its arguments, after `--`.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run a command on a host outside the cluster.
    Client {
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command in a virtual machine that a failed `test vm` left running.
    Machine {
        /// first or second
        machine: String,
        /// The command, as bash reads it, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// First process of a virtual machine: joins the lab's cgroup and becomes the emulator.
    #[command(hide = true)]
    LabMachine {
        lab: String,
        below: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start the cluster that a group of tests shares, or complete it.
    #[command(hide = true)]
    UpForTests,
    /// Start hosts with nothing on them.
    #[command(hide = true)]
    Lab {
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
        nodes: u32,
    },
    /// First process of a lab host, before its namespaces exist.
    #[command(hide = true)]
    LabBoot {
        host: String,
        kind: lab::HostKind,
        home: PathBuf,
    },
    /// First process of a lab host: PID 1 in its namespaces.
    #[command(hide = true)]
    LabInit {
        host: String,
        kind: lab::HostKind,
        home: PathBuf,
    },
    /// Joins a lab host and runs a command there.
    #[command(hide = true)]
    LabEnter {
        host: String,
        /// Appends output to this file, detaches, and prints the process id.
        #[arg(long)]
        detach: Option<PathBuf>,
        /// Opens 127.0.0.1:PORT before joining and hands it in as systemd does.
        #[arg(long)]
        listen: Option<u16>,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Turns standard input into file descriptor 3 and runs a command as systemd's socket activation does.
    #[command(hide = true)]
    LabListen {
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(clap::Args)]
#[group(multiple = false)]
struct NodeFault {
    /// kill -9 of the agent; its pods and the Services stay.
    #[arg(long)]
    kill_agent: bool,
    /// Start the agent, after ending the one that runs.
    #[arg(long)]
    restart_agent: bool,
    /// Freeze the whole host, then kill it: power lost.
    #[arg(long)]
    stop_host: bool,
    /// Boot the host and its agent.
    #[arg(long)]
    start_host: bool,
    /// Take the host's cable out.
    #[arg(long)]
    unplug: bool,
    /// Put the host's cable back.
    #[arg(long)]
    plug: bool,
}

impl NodeFault {
    fn kind(&self) -> Option<up::NodeFault> {
        let Self {
            kill_agent,
            restart_agent,
            stop_host,
            start_host,
            unplug,
            plug,
        } = self;
        [
            (*kill_agent, up::NodeFault::KillAgent),
            (*restart_agent, up::NodeFault::RestartAgent),
            (*stop_host, up::NodeFault::StopHost),
            (*start_host, up::NodeFault::StartHost),
            (*unplug, up::NodeFault::Unplug),
            (*plug, up::NodeFault::Plug),
        ]
        .into_iter()
        .find_map(|(asked, fault)| asked.then_some(fault))
    }
}

/// Runs what the arguments ask for. A failure prints its reason last and ends with a non-zero code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match paths::find_root()
        .and_then(|()| paths::choose_lab())
        .and_then(|()| dispatch(cli.command))
    {
        Ok(code) => code,
        Err(error) => {
            ui::failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Setup => setup::run()?,
        Command::BuildEbpf => ebpf::run()?,
        Command::Up { nodes } => up::up(nodes)?,
        Command::Down => up::down()?,
        Command::Demo => demo::run()?,
        Command::Test {
            tiers,
            filter,
            changed,
        } => test::run(&test::Request {
            tiers,
            filter,
            changed,
        })?,
        Command::Bench { names, quick } => bench::run(
            &names,
            if quick {
                bench::Effort::Quick
            } else {
                bench::Effort::Full
            },
        )?,
        Command::Ci { without_tests } => ci::run(if without_tests {
            ci::Tests::Leave
        } else {
            ci::Tests::Run
        })?,
        Command::Dist => dist::run()?,
        Command::Node {
            node,
            fault,
            command,
        } => match (fault.kind(), command.is_empty()) {
            (Some(fault), true) => up::node_fault(&node, fault)?,
            (None, false) => return lab::enter::foreground(&node, &command),
            (Some(_), false) => anyhow::bail!("a fault and a command cannot be asked for together"),
            (None, true) => anyhow::bail!(
                "say what to do on {node}: `-- CMD...`, or one of the faults in `cargo xtask node --help`"
            ),
        },
        Command::Control {
            kill,
            start,
            command,
        } => match (kill, start, command.is_empty()) {
            (true, _, true) => up::control_kill()?,
            (_, true, true) => up::control_start()?,
            (false, false, false) => return lab::enter::foreground(lab::CONTROL, &command),
            (false, false, true) => anyhow::bail!("say what to do: --kill, --start or `-- CMD...`"),
            _ => anyhow::bail!("a fault and a command cannot be asked for together"),
        },
        Command::Client { command } => return lab::enter::foreground(lab::CLIENT, &command),
        Command::Machine { machine, command } => {
            paths::choose_machines();
            return vm::run_in(&machine, &command.join(" "));
        }
        Command::LabMachine {
            lab,
            below,
            command,
        } => vm::machine::become_machine(&lab, &below, &command)?,
        Command::UpForTests => up::up_for_tests()?,
        Command::Lab { nodes } => up::hosts_only(nodes)?,
        Command::LabBoot { host, kind, home } => lab::boot::boot(&host, kind, &home)?,
        Command::LabInit { host, kind, home } => lab::boot::init(&host, kind, &home)?,
        Command::LabEnter {
            host,
            detach,
            listen,
            command,
        } => {
            return lab::enter::enter(&EnterRequest {
                host,
                detach,
                listen,
                command,
            });
        }
        Command::LabListen { command } => lab::enter::listen(&command)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Scripts outside this repository rely on these.
    #[test]
    fn the_commands_that_stay_fixed_are_understood() {
        for line in [
            "setup",
            "build-ebpf",
            "up",
            "up --nodes 3",
            "down",
            "demo",
            "test",
            "test unit bpf node cluster kubectl",
            "test vm",
            "test --changed",
            "test unit --changed=origin/main",
            "bench",
            "bench datapath idle start",
            "ci",
            "dist",
            "node node-1 -- ip link",
            "node node-1 --kill-agent",
            "node node-1 --restart-agent",
            "node node-1 --stop-host",
            "node node-1 --start-host",
            "client -- true",
            "control --kill",
            "control --start",
        ] {
            let words = std::iter::once("xtask").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("cargo xtask {line}: {error}");
            }
        }
        for line in [
            "",
            "tset",
            "test units",
            "up --nodes 0",
            "node node-1 --kill",
        ] {
            let words = std::iter::once("xtask").chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "cargo xtask {line}");
        }
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn the_reference_of_flags_is_up_to_date() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/flags.md");
        let checked = knarr_base::flags::check(Cli::command(), file.as_ref());
        checked.expect("docs/flags.md");
    }
}
