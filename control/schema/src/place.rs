// SPDX-License-Identifier: Apache-2.0
//! Where in an object a value stands; written out only when something is wrong there.

use std::fmt;

/// One step down.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    /// Into a field, of the Go struct with this name.
    Field(&'a str, &'a str),
    /// Into a map.
    Key(&'a str),
    /// Into a list.
    Item(usize),
}

/// The way from the object down to a value.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    above: Option<(&'a Place<'a>, Step<'a>)>,
    depth: usize,
}

impl<'a> Place<'a> {
    /// The object itself.
    pub(crate) const ROOT: Place<'static> = Place {
        above: None,
        depth: 0,
    };

    pub(crate) fn step<'b>(&'b self, step: Step<'b>) -> Place<'b> {
        Place {
            above: Some((self, step)),
            depth: self.depth + 1,
        }
    }

    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// As Go's `encoding/json` names a field: the innermost struct, then the fields from the top, without keys and
    /// indexes: `Container.spec.containers.name`. `None` outside every struct.
    pub(crate) fn go_field(&self) -> Option<String> {
        let (mut fields, mut innermost) = (Vec::new(), None);
        let mut place = self;
        while let Some((above, step)) = place.above {
            if let Step::Field(name, struct_) = step {
                fields.push(name);
                innermost = innermost.or(Some(struct_));
            }
            place = above;
        }
        fields.reverse();
        Some(format!("{}.{}", innermost?, fields.join(".")))
    }
}

/// `spec.containers[0].name`
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((above, step)) = self.above else {
            return Ok(());
        };
        above.fmt(f)?;
        match step {
            Step::Item(index) => write!(f, "[{index}]"),
            Step::Field(name, _) | Step::Key(name) if above.above.is_none() => f.write_str(name),
            Step::Field(name, _) | Step::Key(name) => write!(f, ".{name}"),
        }
    }
}
