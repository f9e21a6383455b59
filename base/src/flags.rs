// SPDX-License-Identifier: Apache-2.0
//! The reference of a program's flags, made from their declarations, and the test that `docs/flags.md` holds it.
//!
//! The file has a part for each program, between two comments; what stands around them is written by hand. Called by a test
//! of each program, so no program contains it. Behind the feature `flags`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use clap::{Arg, Command};

/// With the value `write`, the test writes the part of its program instead of comparing it.
pub const VARIABLE: &str = "KNARR_FLAGS";
/// What clap adds to every program.
const OF_CLAP: [&str; 2] = ["help", "version"];

/// Why `docs/flags.md` does not hold what a program's flags say.
#[derive(Debug, thiserror::Error)]
pub enum FlagsError {
    /// It cannot be read or written.
    #[error("cannot {action} the reference of flags")]
    File {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// It has no place for this program.
    #[error("the reference of flags has no part between the comments `{begin}` and `{end}`")]
    NoPart {
        /// The comment before it.
        begin: String,
        /// The comment after it.
        end: String,
    },
    /// The declarations have changed.
    #[error(
        "the reference of flags is not what the flags of {program} say: write it with \
         `{VARIABLE}=write cargo xtask test unit --filter reference_of_flags`"
    )]
    Differs {
        /// The program's name.
        program: String,
    },
}

/// Compares the part of `program` in the file with its flags, or writes it where [`VARIABLE`] says so.
pub fn check(program: Command, file: &Path) -> Result<(), FlagsError> {
    let failed = |action| move |source| FlagsError::File { action, source };
    let name = program.get_name().to_owned();
    let wanted = reference(program);
    let is_writing = std::env::var(VARIABLE).is_ok_and(|value| value == "write");
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(is_writing)
        .open(file)
        .map_err(failed("open"))?;
    if is_writing {
        // The tests of several programs may write at once.
        file.lock().map_err(failed("lock"))?;
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed("read"))?;
    let (before, found, after) = parts(&text, &name)?;
    if found == wanted {
        return Ok(());
    }
    if !is_writing {
        return Err(FlagsError::Differs { program: name });
    }
    let text = format!("{before}{wanted}{after}");
    file.rewind().map_err(failed("write"))?;
    file.set_len(0).map_err(failed("write"))?;
    file.write_all(text.as_bytes()).map_err(failed("write"))
}

/// What stands before the part of a program, the part, and what stands after it.
fn parts<'a>(text: &'a str, name: &str) -> Result<(&'a str, &'a str, &'a str), FlagsError> {
    let (begin, end) = (
        format!("<!-- {name}: generated -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let found = text.find(&begin).and_then(|at| {
        let (before, rest) = text.split_at(at + begin.len());
        let (part, after) = rest.split_at(rest.find(&end)?);
        Some((before, part, after))
    });
    found.ok_or(FlagsError::NoPart { begin, end })
}

/// All commands of a program with their flags, as Markdown.
pub fn reference(mut program: Command) -> String {
    program.build();
    let mut text = String::new();
    add_command(&program, program.get_name(), &mut text);
    text
}

fn add_command(command: &Command, words: &str, text: &mut String) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let below: Vec<&Command> = command.get_subcommands().collect();
    let rows = rows(command);
    // The default command has the same flags as its program.
    let other = below
        .iter()
        .find(|other| !rows.is_empty() && self::rows(other) == rows);
    let has_text = below.is_empty() || !rows.is_empty();
    if has_text {
        let about = command
            .get_about()
            .map(|about| one_line(&about.to_string()));
        // Writing to a String cannot fail.
        let _ = write!(text, "\n### {words}\n\n{}\n", about.unwrap_or_default());
    }
    match other {
        Some(other) => {
            let _ = write!(text, "\nThe same as `{words} {}`.\n", other.get_name());
        }
        None if rows.is_empty() => {}
        None => add_rows(&rows, text),
    }
    for below in below {
        add_command(below, &format!("{words} {}", below.get_name()), text);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    flag: String,
    variable: String,
    meaning: String,
}

/// Global flags are listed at the commands below, not at the command that has these.
fn rows(command: &Command) -> Vec<Row> {
    let shown = command.get_arguments().filter(|argument| {
        let of_clap = OF_CLAP.contains(&argument.get_id().as_str());
        let stands_below = argument.is_global_set() && command.has_subcommands();
        !of_clap && !stands_below && !argument.is_hide_set()
    });
    shown.map(row).collect()
}

fn row(argument: &Arg) -> Row {
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let mut meaning = one_line(&help.map(ToString::to_string).unwrap_or_default());
    if argument.get_action().takes_values() {
        let values = argument.get_possible_values();
        let values: Vec<String> = values
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if !values.is_empty() {
            let _ = write!(meaning, " [values: {}]", values.join(", "));
        }
        if let Some(default) = argument.get_default_values().first() {
            let _ = write!(meaning, " [default: {}]", default.to_string_lossy());
        }
    }
    let variable = argument.get_env().unwrap_or_default();
    Row {
        flag: spelled(argument),
        variable: variable.to_string_lossy().into_owned(),
        meaning,
    }
}

/// As one types it.
fn spelled(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let value = match names.first() {
        Some(name) => name.to_string(),
        None => argument.get_id().as_str().to_uppercase(),
    };
    match argument.get_long() {
        Some(long) if !argument.get_action().takes_values() => format!("--{long}"),
        Some(long) if argument.is_require_equals_set() => format!("--{long}[={value}]"),
        Some(long) => format!("--{long} {value}"),
        None if argument.is_last_set() => format!("-- {value}..."),
        None => value,
    }
}

fn add_rows(rows: &[Row], text: &mut String) {
    let has_variables = rows.iter().any(|row| !row.variable.is_empty());
    text.push_str(if has_variables {
        "\n| flag | variable | meaning |\n| --- | --- | --- |\n"
    } else {
        "\n| flag | meaning |\n| --- | --- |\n"
    });
    for Row {
        flag,
        variable,
        meaning,
    } in rows
    {
        let mut cells = vec![format!("`{flag}`")];
        if has_variables {
            cells.push(if variable.is_empty() {
                String::new()
            } else {
                format!("`{variable}`")
            });
        }
        cells.push(meaning.clone());
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
