// SPDX-License-Identifier: Apache-2.0
//! Which flags there are, and that each can also be said by a variable or in the configuration file.

use std::path::Path;

use clap::CommandFactory;

use super::*;
use crate::config::{BPF_ROOT_DEFAULT, ConfigError, DATA_DIR_DEFAULT};

/// Flags that neither a variable nor the file can hold, and why: each is about one call, not about the node.
const OF_ONE_CALL: [(&str, &str, &str); 4] = [
    ("image import", "name", "each image has its own"),
    ("image ls", "quiet", "what this call prints"),
    ("service trace", "from", "the call that is traced"),
    ("service trace", "from-outside", "the call that is traced"),
];

/// One flag of one command.
struct Flag {
    /// The words of the command, such as `image import`.
    command: String,
    long: String,
    env: String,
    /// Whether the command also has `--config`.
    reads_file: bool,
}

impl Flag {
    fn is_of_one_call(&self) -> bool {
        OF_ONE_CALL
            .iter()
            .any(|(command, long, _)| self.command == *command && self.long == *long)
    }
}

/// The flags of all commands; one that is global stands at each command below it.
fn all_flags() -> Vec<Flag> {
    let mut program = Cli::command();
    program.build();
    let mut flags = Vec::new();
    add_flags(&program, "", &mut flags);
    flags
}

fn add_flags(command: &clap::Command, words: &str, flags: &mut Vec<Flag>) {
    let mut longs = command.get_arguments().filter_map(clap::Arg::get_long);
    let reads_file = longs.any(|long| long == "config");
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long() else {
            continue;
        };
        if ["help", "version"].contains(&long) {
            continue;
        }
        let env = argument.get_env().unwrap_or_default();
        flags.push(Flag {
            command: words.to_owned(),
            long: long.to_owned(),
            env: env.to_string_lossy().into_owned(),
            reads_file,
        });
    }
    for below in command.get_subcommands() {
        let words = format!("{words} {}", below.get_name());
        add_flags(below, words.trim_start(), flags);
    }
}

/// What a command uses, after its file was read.
fn options(args: &[&str]) -> Result<RunOptions, ConfigError> {
    let cli = Cli::try_parse_from([&["knarr-agent"], args].concat()).expect("parses");
    match cli.command {
        Command::Run(options) => options.with_file(),
        Command::Image(args) => args.options(),
        Command::Service(args) => args.maps.options(),
        Command::Datapath(args) => args.maps.options(),
        Command::Version | Command::Shim { .. } => panic!("no options"),
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_first_help_says_where_the_flags_of_the_node_are() {
    let help = Cli::command().render_help().to_string();
    assert!(help.contains("knarr-agent run --help"), "{help}");
}

#[test]
fn every_flag_has_an_environment_variable() {
    for flag in all_flags() {
        let name = flag.long.to_uppercase().replace('-', "_");
        let expected = if flag.is_of_one_call() {
            String::new()
        } else {
            format!("KNARR_AGENT_{name}")
        };
        assert_eq!(flag.env, expected, "{} --{}", flag.command, flag.long);
    }
}

#[test]
fn every_flag_can_stand_in_the_file() {
    for flag in all_flags() {
        let (command, long) = (&flag.command, &flag.long);
        // No flag is an empty table; a name that is no flag is refused as unknown.
        let error = toml::from_str::<RunOptions>(&format!("{long} = {{}}")).expect_err("no value");
        let known = !error.message().contains("unknown field");
        // A file does not say where it is.
        let belongs_there = long != "config" && !flag.is_of_one_call();
        assert_eq!(known, belongs_there, "{command} --{long}: {error}");
        assert!(
            flag.reads_file || flag.is_of_one_call(),
            "{command} has --{long}, but no --config"
        );
    }
}

#[test]
fn the_flags_of_one_call_exist() {
    let flags = all_flags();
    for (command, long, reason) in OF_ONE_CALL {
        let exists = flags
            .iter()
            .any(|flag| flag.command == command && flag.long == long);
        assert!(exists, "{command} --{long} ({reason}) is gone");
    }
}

#[test]
fn all_commands_take_what_they_need_from_the_same_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("agent.toml");
    let file = path.to_str().expect("utf-8");
    let write = |text: &str| std::fs::write(&path, text).expect("write");
    let commands: [&[&str]; 4] = [
        &["run"],
        &["image", "ls"],
        &["service", "ls"],
        &["datapath", "check"],
    ];
    for command in commands {
        let with = |more: &[&str]| options(&[command, more].concat());

        let none = with(&[]).expect("no file");
        assert_eq!(none.data_dir(), Path::new(DATA_DIR_DEFAULT));
        assert_eq!(none.bpf_root(), Path::new(BPF_ROOT_DEFAULT));

        // The last is a key of `run` alone.
        write("data-dir = \"/file\"\nbpf-root = \"/bpf\"\nmax-pods = 7");
        let filed = with(&["--config", file]).expect("reads");
        assert_eq!(filed.data_dir(), Path::new("/file"), "{command:?}");
        assert_eq!(filed.bpf_root(), Path::new("/bpf"), "{command:?}");
        let flagged = with(&["--config", file, "--data-dir", "/flag"]).expect("reads");
        assert_eq!(flagged.data_dir(), Path::new("/flag"), "{command:?}");

        write("data-dri = \"/file\"");
        let wrong = with(&["--config", file]).expect_err("refused");
        let ConfigError::Parse { source, .. } = wrong else {
            panic!("{wrong}");
        };
        assert!(source.message().contains("data-dri"), "{source}");
    }
}

#[test]
fn the_reference_of_flags_is_up_to_date() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/flags.md");
    let checked = knarr_base::flags::check(Cli::command(), file.as_ref());
    checked.expect("docs/flags.md");
}
