// SPDX-License-Identifier: Apache-2.0
//! Which flags there are, and that each can also be said by a variable or in the config file.

use clap::CommandFactory;

use super::*;

/// Flags that neither a variable nor the file can hold, and why: each is about one call, not about the
/// control plane.
const OF_ONE_CALL: [(&str, &str, &str); 3] = [
    ("token create", "ttl", "each token has its own"),
    ("token create", "description", "each token has its own"),
    ("token create", "token-only", "what this call prints"),
];

/// One flag of one command.
struct Flag {
    /// The words of the command, such as `token create`.
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

/// What `token list` of a machine with this file uses.
fn token_settings(file: &str, more: &[&str]) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.toml");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    let words = ["knarr-control", "token", "list", "--config", path];
    let cli = Cli::try_parse_from([&words, more].concat()).unwrap();
    let Some(Command::Token { access, .. }) = cli.command else {
        panic!("no token command");
    };
    access.settings()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn serve_is_what_happens_without_a_command() {
    let cli = Cli::try_parse_from(["knarr-control", "--data-dir", "/x"]).unwrap();
    assert!(cli.command.is_none());
    assert_eq!(cli.serve.data_dir, Some(PathBuf::from("/x")));
}

#[test]
fn every_flag_has_an_environment_variable() {
    for flag in all_flags() {
        let name = flag.long.to_uppercase().replace('-', "_");
        let expected = if flag.is_of_one_call() {
            String::new()
        } else {
            format!("KNARR_CONTROL_{name}")
        };
        assert_eq!(flag.env, expected, "{} --{}", flag.command, flag.long);
    }
}

#[test]
fn every_flag_can_stand_in_the_file() {
    for flag in all_flags() {
        let (command, long) = (&flag.command, &flag.long);
        // No flag is an empty table; a name that is no flag is refused as unknown.
        let error = toml::from_str::<Settings>(&format!("{long} = {{}}")).unwrap_err();
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
fn token_takes_what_it_needs_from_the_control_planes_file() {
    let file = "data-dir = \"/file\"\nserver = \"https://file:6443\"\nlog = \"debug\"";
    let settings = token_settings(file, &[]).unwrap();
    assert_eq!(settings.data_dir(), PathBuf::from("/file"));
    assert_eq!(settings.server.as_deref(), Some("https://file:6443"));

    let flags = ["--server", "https://flag:6443", "--data-dir", "/flag"];
    let settings = token_settings(file, &flags).unwrap();
    assert_eq!(settings.data_dir(), PathBuf::from("/flag"));
    assert_eq!(settings.server.as_deref(), Some("https://flag:6443"));

    let error = token_settings("sever = \"https://file:6443\"", &[]).unwrap_err();
    let ConfigError::Parse { source, .. } = error else {
        panic!("{error}");
    };
    assert!(source.message().contains("sever"), "{source}");
}

#[test]
fn the_reference_of_flags_is_up_to_date() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/flags.md");
    let checked = knarr_base::flags::check(Cli::command(), file.as_ref());
    checked.expect("docs/flags.md");
}
