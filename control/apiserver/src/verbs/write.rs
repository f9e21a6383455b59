// SPDX-License-Identifier: Apache-2.0
//! The write pipeline: every write takes these steps in this order, and a verb is no more than the [`Source`] of the
//! next object.
//!
//! Called by the verbs `create`, `update` and `delete` below, for requests over the network and for the in-process client alike. What is not
//! here: how a transaction reaches the store (`commit.rs`), and heartbeats that are kept in memory (`volatile.rs`).

use serde_json::Value;

use super::{DeleteOptions, WriteOptions, Written};
use crate::ApiError;
use crate::admission::{Operation, Part};
use crate::allocations::allocates;
use crate::core::Core;
use crate::registry::Kind;

mod attempt;
mod create;
mod delete;
mod update;

use attempt::{Attempt, End};

pub(super) use create::check_namespace;
pub(crate) use update::{check_place, check_uid};

/// Attempts of a write whose object keeps changing underneath, when the caller named no version.
pub(super) const SWAP_ATTEMPTS_MAX: usize = 64;
/// Names tried for one `generateName`.
const GENERATE_ATTEMPTS: usize = 8;

/// One step of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Reads the object as it is now. A new object has none.
    Read,
    /// Asks the source for the next object: what was sent, what a patch makes, what a deletion leaves.
    Next,
    /// Puts back what this part of the object may not change, and fills defaults.
    Prepare,
    /// Lets the admission chain change the object.
    Mutate,
    /// Counts the generation, with what the chain has changed.
    Generation,
    /// Asks the kind what is wrong with the object.
    Validate,
    /// Lets the admission chain refuse the object.
    Review,
    /// Takes the addresses and ports that the object needs.
    Allocate,
    /// Says who manages which field.
    ManagedFields,
    /// Makes the bytes that are stored. A change that changes nothing ends here.
    Encode,
    /// Swaps by the revision that was read.
    Commit,
}

/// The order of every write.
const PIPELINE: [Step; 11] = [
    Step::Read,
    Step::Next,
    Step::Prepare,
    Step::Mutate,
    Step::Generation,
    Step::Validate,
    Step::Review,
    Step::Allocate,
    Step::ManagedFields,
    Step::Encode,
    Step::Commit,
];

/// Which object a write is about, and how it is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write<'a> {
    /// The kind that the request names; it may be a view.
    pub(crate) kind: &'a Kind,
    pub(crate) namespace: &'a str,
    /// Empty at a creation: the object has it.
    pub(crate) name: &'a str,
    pub(crate) part: Part,
    pub(crate) options: &'a WriteOptions,
}

/// A next object in the view of the request's kind, and what the client should be warned about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Next {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

impl From<Value> for Next {
    fn from(object: Value) -> Self {
        Self {
            object,
            warnings: Vec::new(),
        }
    }
}

/// What a change makes of the current object, which it sees in the view of the request's kind. It is asked again when
/// the object has changed in between.
pub(crate) type Change<'a> = dyn Fn(&Value) -> Result<Next, ApiError> + Send + Sync + 'a;

/// Where the next object comes from: the only step in which the verbs differ.
pub(crate) enum Source<'a> {
    /// It is new.
    Create(Next),
    /// It is the current one, changed.
    Update(&'a Change<'a>),
    /// It is what a deletion leaves of the current one.
    Delete(&'a DeleteOptions),
}

impl Source<'_> {
    fn operation(&self) -> Operation {
        match self {
            Self::Create(_) => Operation::Create,
            Self::Update(_) => Operation::Update,
            Self::Delete(_) => Operation::Delete,
        }
    }

    /// How often the write is tried before its last refusal counts.
    fn attempts(&self) -> usize {
        match self {
            Self::Create(next) if create::generates_name(&next.object) => GENERATE_ATTEMPTS,
            Self::Create(_) => 1,
            Self::Update(_) | Self::Delete(_) => SWAP_ATTEMPTS_MAX,
        }
    }
}

impl Core {
    /// Takes a write through the pipeline, and again from the start where another write came first.
    pub(crate) async fn run(
        &self,
        write: Write<'_>,
        mut source: Source<'_>,
    ) -> Result<Written, ApiError> {
        let operation = source.operation();
        let mut left = source.attempts();
        let mut choices_left = SWAP_ATTEMPTS_MAX;
        let chooses = allocates(write.kind.stored());
        loop {
            left -= 1;
            let mut attempt = Attempt::new(self, write, operation);
            match &mut source {
                // The last attempt needs no copy, unless it may choose addresses again.
                Source::Create(next) if left == 0 && !chooses => attempt.put(std::mem::take(next)),
                Source::Create(next) => attempt.put(next.clone()),
                Source::Update(_) | Source::Delete(_) => {}
            }
            for step in PIPELINE {
                attempt.step(step, &source).await?;
                if attempt.is_over() {
                    break;
                }
            }
            match attempt.end() {
                Some(End::Written(written)) => return Ok(written),
                Some(End::Overtaken(refusal)) if left == 0 => return Err(refusal),
                Some(End::Overtaken(_)) => {}
                Some(End::Outrun(refusal)) => {
                    choices_left -= 1;
                    if choices_left == 0 {
                        return Err(refusal);
                    }
                    left += 1;
                }
                None => return Err(ApiError::internal("the write was not committed")),
            }
        }
    }
}

#[cfg(test)]
mod tests;
