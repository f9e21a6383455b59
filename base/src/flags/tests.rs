// SPDX-License-Identifier: Apache-2.0
//! What a reference looks like, and that a stale one is refused and written again.

use clap::ArgAction;

use super::*;

/// A program that runs `serve` without a command.
fn program(more: &'static str) -> Command {
    let port = || {
        Arg::new("port")
            .long("port")
            .value_name("N")
            .default_value("6443")
            .help("Where it\nlistens")
    };
    let quiet = Arg::new("quiet").long("quiet").action(ArgAction::SetTrue);
    let format = Arg::new("format").long("format").global(true);
    let format = format.value_parser(["json", "text"]).help("a|b");
    let dir = Arg::new("dir").required(true).help("A directory");
    let tool = Command::new("tool").arg(format);
    Command::new("p")
        .about("A program")
        .arg(port())
        .subcommand(Command::new("serve").about("Serves").arg(port()))
        .subcommand(tool.subcommand(Command::new("ls").about(more).arg(dir).arg(quiet)))
        .subcommand(Command::new("secret").hide(true))
}

const REFERENCE: &str = "
### p

A program

The same as `p serve`.

### p serve

Serves

| flag | meaning |
| --- | --- |
| `--port N` | Where it listens [default: 6443] |

### p tool ls

Lists

| flag | meaning |
| --- | --- |
| `DIR` | A directory |
| `--quiet` |  |
| `--format FORMAT` | a\\|b [values: `json`, `text`] |
";

#[test]
fn every_command_that_can_be_called_has_its_flags() {
    assert_eq!(reference(program("Lists")), REFERENCE);
}

#[test]
fn a_part_that_is_not_what_the_flags_say_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("flags.md");
    let file = format!("# Flags\n<!-- p: generated -->\n{REFERENCE}<!-- p: end -->\nMore.\n");
    std::fs::write(&path, &file).expect("writes");
    check(program("Lists"), &path).expect("it is up to date");
    let differs = check(program("Shows"), &path).expect_err("it is stale");
    assert!(matches!(differs, FlagsError::Differs { .. }), "{differs}");
    assert_eq!(std::fs::read_to_string(&path).expect("reads"), file);
    std::fs::write(&path, "# Flags\n").expect("writes");
    let absent = check(program("Lists"), &path).expect_err("there is no part");
    assert!(matches!(absent, FlagsError::NoPart { .. }), "{absent}");
}
