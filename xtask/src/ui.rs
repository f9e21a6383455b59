// SPDX-License-Identifier: Apache-2.0
//! What people see: one line a step with the time it took, a spinner while it runs on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often the spinner turns.
const SPINNER_TICK: Duration = Duration::from_millis(120);

/// A step that is being done. Dropped without `done`, it is shown as failed.
pub struct Step {
    text: String,
    started: Instant,
    bar: Option<ProgressBar>,
    ended: bool,
}

/// Starts a step and says so.
pub fn step(text: impl Into<String>) -> Step {
    let text = text.into();
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(text.clone());
        bar.enable_steady_tick(SPINNER_TICK);
        bar
    });
    if bar.is_none() {
        eprintln!("  … {text}");
    }
    Step {
        text,
        started: Instant::now(),
        bar,
        ended: false,
    }
}

impl Step {
    /// Shows what the step is waiting for.
    pub fn say(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {detail}", self.text));
        }
    }

    /// Ends the step well.
    pub fn done(self) {
        self.done_with("");
    }

    /// Ends the step well with a few words about the outcome.
    pub fn done_with(mut self, outcome: &str) {
        self.finish("✓", outcome);
    }

    fn finish(&mut self, mark: &str, outcome: &str) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let outcome = if outcome.is_empty() {
            String::new()
        } else {
            format!(", {outcome}")
        };
        eprintln!("  {mark} {}{outcome} ({seconds:.1} s)", self.text);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.finish("✗", "failed");
    }
}

/// A line that stays.
pub fn line(text: &str) {
    eprintln!("  {text}");
}

/// A heading over the lines that follow.
pub fn heading(text: &str) {
    eprintln!("\n{text}");
}

/// The reason of a failure, as the last thing printed.
pub fn failure(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("\n  because: {cause}"));
    }
    let mut stderr = std::io::stderr().lock();
    // Nothing is left to do where even standard error is closed.
    let _ = writeln!(stderr, "{text}");
}
