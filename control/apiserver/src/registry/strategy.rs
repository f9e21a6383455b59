// SPDX-License-Identifier: Apache-2.0
//! What is special about a kind, as hooks that the generic code calls.
//!
//! Every hook has a default that suits a plain kind. The files below `kinds` implement them. Nothing outside of `kinds`
//! compares the name of a kind.

use serde_json::Value;

use super::Rules;
use crate::field::FieldErrors;
use crate::identity::Caller;

/// Who may send objects of a kind without storage, besides those who may do everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Askers {
    Nobody,
    /// Users that have proven who they are and are no nodes.
    ProvenUsers,
}

/// What a deletion that is done answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeletedAnswer {
    /// A Status that names the object.
    Status,
    /// The object's last state.
    Object,
}

/// What is special about a kind. Objects are trees that the schema has already checked for types.
pub(crate) trait Strategy: Send + Sync {
    /// Fills in what was left out, as Kubernetes' defaulting of this version.
    fn default(&self, _object: &mut Value) {}
    /// Clears what a client may not set at creation; defaults are in already.
    fn prepare_create(&self, _object: &mut Value) {}
    /// Keeps what a client may not change.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}
    /// Keeps what a client of the status subresource may not change, besides `spec`.
    fn prepare_status(&self, _new: &mut Value, _old: &Value) {}
    /// What is wrong with its objects; a view answers for the stored form.
    fn rules(&self) -> Option<&dyn Rules> {
        None
    }
    /// Warnings of what this version takes and does not carry out.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }
    /// Warnings that Kubernetes gives as well: its `WarningsOnCreate`, and `WarningsOnUpdate` where there is an old object.
    fn advice(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// Says that the kind itself is deprecated. It goes with every answer about the kind.
    fn deprecation(&self) -> Option<&str> {
        None
    }
    /// Whether the object itself says that it stays for now, finalizers of its metadata aside.
    fn is_held(&self, _object: &Value) -> bool {
        false
    }
    /// Seconds until an object whose deletion begins now is gone by itself, of which a client has asked for `asked`; 0
    /// where it goes at once.
    fn grace_s(&self, _object: &Value, _asked: Option<i64>) -> i64 {
        0
    }
    /// Marks an object whose deletion begins.
    fn begin_deletion(&self, _object: &mut Value) {}
    /// What a deletion that is done answers.
    fn deleted_answer(&self) -> DeletedAnswer {
        DeletedAnswer::Status
    }
    /// Whether all objects of a collection can be deleted by one request.
    fn deletes_collections(&self) -> bool {
        true
    }
    /// Whether its objects take addresses and ports of the cluster.
    fn allocates(&self) -> bool {
        false
    }
    /// Answers a review: the status to return. `None` for other kinds.
    fn answer(&self, _question: &Value, _caller: &Caller) -> Option<Value> {
        None
    }
    /// Who may send one.
    fn askers(&self) -> Askers {
        Askers::Nobody
    }
    /// What is wrong with a Binding of an object of this kind.
    fn check_binding(&self, _binding: &Value, _errors: &mut FieldErrors) {}
    /// The object as bound by `binding`, or why it cannot be.
    fn bind(&self, _current: &Value, _binding: &Value) -> Result<Value, String> {
        Err("objects of this kind are not bound".to_owned())
    }
    /// The cells of one row, in the order of the columns after the name.
    fn cells(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }
    /// From the stored form to this view, and back.
    fn as_view(&self, object: Value) -> Value {
        object
    }
    /// From this view to the stored form.
    fn to_stored(&self, object: Value) -> Value {
        object
    }
}

impl dyn Strategy {
    /// Every warning about a new object, or a changed one.
    pub(crate) fn all_warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut all = self.advice(new, old);
        all.extend(self.warnings(new));
        all
    }
}
