// SPDX-License-Identifier: Apache-2.0
//! Taints and tolerations, as the scheduler and node lifecycle read them.

use knarr_api::k8s_openapi::api::core::v1::{Taint, Toleration};

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away if there is another node.
    PreferNoSchedule,
    /// New pods stay away and running ones have to leave.
    NoExecute,
    /// Unknown to this version; it keeps no pod away.
    Other,
}

impl Effect {
    /// Reads `taint.effect`.
    pub fn parse(text: &str) -> Self {
        match text {
            "NoSchedule" => Self::NoSchedule,
            "PreferNoSchedule" => Self::PreferNoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => Self::Other,
        }
    }
}

/// A taint in compact form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaintView {
    /// `taint.key`
    pub key: Box<str>,
    /// `taint.value`
    pub value: Box<str>,
    /// `taint.effect`
    pub effect: Effect,
}

impl TaintView {
    /// The view of `taint`.
    pub fn of(taint: &Taint) -> Self {
        Self {
            key: taint.key.as_str().into(),
            value: taint.value.as_deref().unwrap_or_default().into(),
            effect: Effect::parse(&taint.effect),
        }
    }
}

/// A toleration in compact form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TolerationView {
    /// Empty: every key.
    pub key: Box<str>,
    /// The value to equal; `None` for `Exists`.
    pub value: Option<Box<str>>,
    /// `None`: every effect.
    pub effect: Option<Effect>,
}

impl TolerationView {
    /// The view of `toleration`.
    pub fn of(toleration: &Toleration) -> Self {
        let exists = toleration.operator.as_deref() == Some("Exists");
        let effect = toleration
            .effect
            .as_deref()
            .filter(|effect| !effect.is_empty());
        Self {
            key: toleration.key.as_deref().unwrap_or_default().into(),
            value: (!exists).then(|| toleration.value.as_deref().unwrap_or_default().into()),
            effect: effect.map(Effect::parse),
        }
    }

    /// True when a pod with this toleration may live with `taint`.
    pub fn tolerates(&self, taint: &TaintView) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
    }
}

/// The first taint of the given effects that nothing tolerates.
pub fn untolerated<'a>(
    taints: &'a [TaintView],
    tolerations: &[TolerationView],
    effects: &[Effect],
) -> Option<&'a TaintView> {
    taints.iter().find(|taint| {
        effects.contains(&taint.effect) && !tolerations.iter().any(|t| t.tolerates(taint))
    })
}
