//! Programs that are called when something happens: bounded in time, number and waiting.

use std::{process::Stdio, sync::Arc, time::Duration};

use tokio::{
    process::Command,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use crate::{config::Hook, director::Happening};

/// So many hooks run at once.
const AT_ONCE: usize = 4;
/// So many calls wait; more are left out, and it is said.
const WAITING: usize = 256;

/// Calls hooks in the background.
pub(crate) struct Hooks {
    queue: mpsc::Sender<(Hook, Happening)>,
    left_out: u64,
}

impl Hooks {
    pub(crate) fn start() -> Self {
        let (queue, mut calls) = mpsc::channel::<(Hook, Happening)>(WAITING);
        tokio::spawn(async move {
            let permits = Arc::new(Semaphore::new(AT_ONCE));
            while let Some((hook, happening)) = calls.recv().await {
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                tokio::spawn(async move {
                    if let Err(reason) = call(&hook, &happening).await {
                        let program = hook.program.display();
                        tracing::warn!("hook {program} for {}: {reason}", happening.kind);
                    }
                    drop(permit);
                });
            }
        });
        Self { queue, left_out: 0 }
    }

    /// Calls those of the hooks that want to know of it.
    pub(crate) fn call(&mut self, hooks: &[Hook], happening: &Happening) {
        let wants = |hook: &&Hook| {
            hook.events.is_empty() || hook.events.iter().any(|event| event == happening.kind)
        };
        for hook in hooks.iter().filter(wants) {
            if self.queue.try_send((hook.clone(), happening.clone())).is_err() {
                if self.left_out == 0 {
                    tracing::warn!("hooks: more than {WAITING} wait; calls are left out");
                }
                self.left_out += 1;
            } else if self.left_out > 0 {
                tracing::warn!("hooks: {} calls were left out", self.left_out);
                self.left_out = 0;
            }
        }
    }
}

async fn call(hook: &Hook, happening: &Happening) -> Result<(), String> {
    let (name, key) = match &happening.service {
        Some((name, key)) => (name.to_string(), key.to_string()),
        None => Default::default(),
    };
    let mut child = Command::new(&hook.program)
        .args(&hook.arguments)
        .env("LVS_EVENT", happening.kind)
        .env("LVS_TEXT", one_line(&happening.text))
        .env("LVS_SERVICE", name)
        .env("LVS_SERVICE_KEY", key)
        .env("LVS_MEMBER", happening.member.map(|it| it.to_string()).unwrap_or_default())
        .env("LVS_REASON", one_line(&happening.reason))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // With a group of its own, so that what it started ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let group = child.id();
    match timeout(hook.timeout.max(Duration::from_millis(100)), child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            if let Some(group) = group.and_then(|id| i32::try_from(id).ok()) {
                let group = nix::unistd::Pid::from_raw(group);
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            }
            let _ = child.wait().await;
            Err(format!("killed after {}", humantime::format_duration(hook.timeout)))
        }
    }
}

/// A server's words may hold anything; a NUL ends the call.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
