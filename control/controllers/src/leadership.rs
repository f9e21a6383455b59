// SPDX-License-Identifier: Apache-2.0
//! Which of several control processes runs the scheduler and the controllers.
//!
//! [`Elector`] is held by the task that wins and loses the Lease, [`Leadership`] by the runner of the controllers.
//! Each sees the other's state: the runner works while this process leads, and the elector gives the Lease to another
//! process only after the runner's workers have ended. The election is not in this file.

use tokio::sync::watch;

/// What this process is among several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Another process runs the controllers, or none does.
    Standby,
    /// This process runs them.
    Leader,
}

/// Whether a runner works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Stopped,
    Running,
}

/// Makes a standby process; its leadership is given and taken by the elector.
#[must_use]
pub fn channel() -> (Elector, Leadership) {
    let (role_sender, role) = watch::channel(Role::Standby);
    let (work_sender, work) = watch::channel(Work::Stopped);
    let elector = Elector {
        role: role_sender,
        work,
    };
    let leadership = Leadership {
        role,
        work: work_sender,
        always: None,
    };
    (elector, leadership)
}

/// The elector's end: says whether this process leads.
#[derive(Debug)]
pub struct Elector {
    role: watch::Sender<Role>,
    work: watch::Receiver<Work>,
}

impl Elector {
    /// The Lease is ours: the controllers start.
    pub fn lead(&self) {
        self.role.send_replace(Role::Leader);
    }

    /// The Lease is lost or about to be given up. Returns when no worker of this process runs any more, and another
    /// process may start its own.
    pub async fn step_down(&mut self) {
        self.role.send_replace(Role::Standby);
        // A runner that is gone runs no worker.
        let _ = self.work.wait_for(|work| *work == Work::Stopped).await;
    }
}

impl Drop for Elector {
    fn drop(&mut self) {
        // A Lease that no task renews is lost.
        self.role.send_replace(Role::Standby);
    }
}

/// The runner's end: it waits for the time to work.
#[derive(Debug)]
pub struct Leadership {
    role: watch::Receiver<Role>,
    work: watch::Sender<Work>,
    /// Keeps the role of a process that leads without an election.
    always: Option<Elector>,
}

/// A runner that works. Dropped when the last of its workers has ended.
#[derive(Debug)]
pub struct Term {
    work: watch::Sender<Work>,
}

impl Drop for Term {
    fn drop(&mut self) {
        self.work.send_replace(Work::Stopped);
    }
}

impl Leadership {
    /// The leadership of a process that is alone on its store: it leads from the start until its end.
    #[must_use]
    pub fn always() -> Self {
        let (elector, mut leadership) = channel();
        elector.lead();
        leadership.always = Some(elector);
        leadership
    }

    /// Begins a term, where this process leads now.
    #[must_use]
    pub fn begin(&self) -> Option<Term> {
        // Before the role is read: an elector that has taken the role away sees a runner that has begun.
        let term = Term {
            work: self.work.clone(),
        };
        self.work.send_replace(Work::Running);
        (*self.role.borrow() == Role::Leader).then_some(term)
    }

    /// Returns when this process leads. Dropping the future loses nothing.
    pub async fn gained(&mut self) {
        if self
            .role
            .wait_for(|role| *role == Role::Leader)
            .await
            .is_err()
        {
            // The elector has ended, so this process never leads again.
            std::future::pending::<()>().await;
        }
    }

    /// Returns when this process does not lead any more, which the end of the elector means too. Dropping the future
    /// loses nothing.
    pub async fn lost(&mut self) {
        // An error says that the elector has ended.
        let _ = self.role.wait_for(|role| *role == Role::Standby).await;
    }
}

#[cfg(test)]
mod tests;
