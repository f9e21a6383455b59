// SPDX-License-Identifier: Apache-2.0
//! Label selectors, from the text form of query parameters and from `LabelSelector` objects.
//!
//! Syntax and wording follow Kubernetes' `apimachinery/pkg/labels` (v1.37). Matching works on any map of
//! labels, so that callers need not build one of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::names::{validate_label_value, validate_qualified_name};

mod parse;

/// How a label has to relate to the values of a requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The label exists and its value is one of the values.
    In,
    /// The label is absent or its value is none of the values.
    NotIn,
    /// The label exists.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label's value is an integer greater than the only value.
    GreaterThan,
    /// The label's value is an integer less than the only value.
    LessThan,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Relation between the label and `values`.
    pub operator: Operator,
    /// Empty for `Exists` and `DoesNotExist`, one integer for the comparisons.
    pub values: BTreeSet<String>,
}

/// Requirements that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selector {
    /// Selects no object, as an absent `LabelSelector` does.
    Nothing,
    /// Selects what meets every requirement; with none, everything.
    All(Vec<Requirement>),
}

/// A selector that cannot be understood or breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    pub(crate) message: String,
}

/// Where a selector finds an object's labels.
pub trait Labels {
    /// The value of label `key`, `None` where it is absent.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl Labels for Option<BTreeMap<String, String>> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl Labels for [(String, String)] {
    fn label(&self, key: &str) -> Option<&str> {
        self.iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

impl Requirement {
    /// Checks key, operator and number of values.
    pub fn new(
        key: impl Into<String>,
        operator: Operator,
        values: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, SelectorError> {
        let requirement = Self {
            key: key.into(),
            operator,
            values: values.into_iter().map(Into::into).collect(),
        };
        requirement.check()?;
        Ok(requirement)
    }

    fn check(&self) -> Result<(), SelectorError> {
        let refuse = |message: String| Err(SelectorError { message });
        if let Some(wrong) = validate_qualified_name(&self.key).into_iter().next() {
            return refuse(format!("key: Invalid value: {:?}: {wrong}", self.key));
        }
        match self.operator {
            Operator::In | Operator::NotIn if self.values.is_empty() => {
                return refuse(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                        .to_owned(),
                );
            }
            Operator::Exists | Operator::DoesNotExist if !self.values.is_empty() => {
                return refuse(
                    "values: Invalid value: values set must be empty for exists and does not exist"
                        .to_owned(),
                );
            }
            Operator::GreaterThan | Operator::LessThan
                if self.values.len() != 1
                    || self
                        .values
                        .iter()
                        .any(|value| value.parse::<i64>().is_err()) =>
            {
                return refuse(
                    "values: Invalid value: for 'Gt', 'Lt' operators, exactly one integer value is required"
                        .to_owned(),
                );
            }
            _ => {}
        }
        for value in &self.values {
            if let Some(wrong) = validate_label_value(value).into_iter().next() {
                return refuse(format!(
                    "values[0][{}]: Invalid value: {value:?}: {wrong}",
                    self.key
                ));
            }
        }
        Ok(())
    }

    /// True when the labels meet the requirement.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let label = labels.label(&self.key);
        let compare = |holds: fn(&i64, &i64) -> bool| {
            let wanted = self.values.iter().next().and_then(|v| v.parse().ok());
            match (label.and_then(|value| value.parse().ok()), wanted) {
                (Some(value), Some(wanted)) => holds(&value, &wanted),
                _ => false,
            }
        };
        match self.operator {
            Operator::In => label.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => label.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => compare(i64::gt),
            Operator::LessThan => compare(i64::lt),
        }
    }
}

impl Selector {
    /// Selects every object.
    pub const EVERYTHING: Self = Self::All(Vec::new());

    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k`. The empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        parse::selector(text)
    }

    /// The meaning of an API object's `LabelSelector`: absent selects nothing, empty everything.
    pub fn from_object(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        let Some(selector) = selector else {
            return Ok(Self::Nothing);
        };
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::In, [value])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError {
                        message: format!("{other:?} is not a valid label selector operator"),
                    });
                }
            };
            let values = expression.values.iter().flatten();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::All(requirements))
    }

    /// The meaning of a plain map (`spec.selector` of a Service, `spec.nodeSelector`): all pairs must be there.
    pub fn from_map(pairs: &BTreeMap<String, String>) -> Self {
        Self::All(
            pairs
                .iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::In,
                    values: BTreeSet::from([value.clone()]),
                })
                .collect(),
        )
    }

    /// True when the labels meet every requirement.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        match self {
            Self::Nothing => false,
            Self::All(requirements) => requirements.iter().all(|r| r.matches(labels)),
        }
    }

    /// True when it selects everything.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::All(requirements) if requirements.is_empty())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = || {
            self.values
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(",")
        };
        let key = &self.key;
        match self.operator {
            Operator::In if self.values.len() == 1 => write!(f, "{key}={}", values()),
            Operator::In => write!(f, "{key} in ({})", values()),
            Operator::NotIn if self.values.len() == 1 => write!(f, "{key}!={}", values()),
            Operator::NotIn => write!(f, "{key} notin ({})", values()),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{}", values()),
            Operator::LessThan => write!(f, "{key}<{}", values()),
        }
    }
}

/// The text form that [`Selector::parse`] reads; `Nothing` has none and prints as empty.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::All(requirements) = self else {
            return Ok(());
        };
        for (index, requirement) in requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
