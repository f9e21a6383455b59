// SPDX-License-Identifier: Apache-2.0
//! How far a rolling update may go above and below the wanted number of pods.

use knarr_api::k8s_openapi::api::apps::v1::Deployment;
use knarr_api::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Default of `maxSurge` and `maxUnavailable`, in percent.
const DEFAULT_PERCENT: i64 = 25;

/// `maxSurge` and `maxUnavailable` as numbers of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Pods above the wanted number.
    pub surge: i32,
    /// Pods that may be missing.
    pub unavailable: i32,
}

/// The wanted number of pods; the API's default is one.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// Resolves percentages: surge is rounded up, unavailable down; if both came out as none, no update could
/// ever go on, so one pod may be missing. Both are none for `Recreate`.
pub fn bounds(deployment: &Deployment) -> Bounds {
    if is_recreate(deployment) {
        return Bounds::default();
    }
    let replicas = replicas(deployment);
    let rolling = deployment
        .spec
        .strategy
        .as_ref()
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = resolve(
        rolling.and_then(|r| r.max_surge.as_ref()),
        replicas,
        Rounding::Up,
    );
    let unavailable = resolve(
        rolling.and_then(|r| r.max_unavailable.as_ref()),
        replicas,
        Rounding::Down,
    );
    let unavailable = if surge == 0 && unavailable == 0 {
        1
    } else {
        unavailable
    };
    Bounds {
        surge,
        unavailable: unavailable.min(replicas),
    }
}

#[derive(Clone, Copy)]
enum Rounding {
    Up,
    Down,
}

fn resolve(value: Option<&IntOrString>, total: i32, rounding: Rounding) -> i32 {
    let percent = match value {
        Some(IntOrString::Int(count)) => return (*count).max(0),
        Some(IntOrString::String(text)) => {
            let number = text
                .strip_suffix('%')
                .and_then(|number| number.parse::<i64>().ok());
            number.unwrap_or(0).max(0)
        }
        None => DEFAULT_PERCENT,
    };
    let hundredths = percent.saturating_mul(total.into());
    let whole = match rounding {
        Rounding::Up => hundredths.saturating_add(99) / 100,
        Rounding::Down => hundredths / 100,
    };
    i32::try_from(whole).unwrap_or(i32::MAX)
}
