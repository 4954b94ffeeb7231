//! What the loop answers: to commands, and to those who look.

use std::time::Instant;

use tokio::sync::mpsc;

use super::{AGAIN, Runner};
use crate::{
    control::{Answer, Ask, Request},
    director::{Now, Wish},
    host::Role,
    http::Http,
    status::{self, Status},
};

impl Runner {
    /// Answers a command.
    pub(crate) async fn answer(&mut self, request: Request) -> Answer {
        let said = |done, text: String| Answer { done, text, status: None };
        let (member, service, wish) = match request {
            Request::Status => {
                let status = Some(Box::new(self.status().await));
                return Answer { done: true, text: String::new(), status };
            }
            Request::Role { master } => {
                let role = if master { Role::Master } else { Role::Backup };
                return match self.wish_role(role) {
                    Ok(()) => said(true, format!("the director is {}", self.role_name())),
                    Err(reason) => said(false, reason.to_owned()),
                };
            }
            Request::Confirm => {
                let held_back = self.reconciler.held_back();
                self.reconciler.confirm(&held_back);
                return said(true, format!("{} removals confirmed", held_back.len()));
            }
            Request::Drain { member, service } => (member, service, Wish::Drain),
            Request::Maintain { member, service } => (member, service, Wish::Maintain),
            Request::Enable { member, service } => (member, service, Wish::Enable),
            Request::Weight { member, service, percent } => {
                (member, service, Wish::Weight(percent.min(100)))
            }
        };
        let now = Now::read();
        let count = self.director.wish(service.as_deref(), &member, wish, now);
        self.health_due.get_or_insert(now.instant);
        match count {
            0 => said(false, format!("no service has a member {member}")),
            1 => said(true, format!("{member}: done in 1 service")),
            _ => said(true, format!("{member}: done in {count} services")),
        }
    }

    async fn status(&self) -> Status {
        let (table, failure) = match self.client.snapshot().await {
            Ok(table) => (Some(table), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let of = self.reconciler.status();
        let metrics = of
            .metrics()
            .map(|it| (it.name.to_owned(), it.help.to_owned(), it.is_counter, it.value));
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: status::seconds(std::time::SystemTime::now()),
            role: self.role_name().to_owned(),
            file: self.options.file.display().to_string(),
            mistakes: self.mistakes.clone(),
            failure: self.round_failure.clone().or(failure),
            host_failures: self
                .host_failures
                .iter()
                .chain(&self.http_failure)
                .chain(&self.shortage)
                .cloned()
                .collect(),
            held_back: of.held_back,
            draining: of.draining,
            checks: self.check_count,
            services: status::services(&self.director, table.as_ref(), &self.history),
            events: status::events(&self.director),
            metrics: metrics.collect(),
        }
    }

    /// Listens where the file says. What cannot be had now is tried again.
    pub(crate) async fn serve(&mut self, http: &mut Option<Http>, asks: &mpsc::Sender<Ask>) {
        let wanted = self.director.config().http;
        if http.as_ref().map(|http| http.address) == wanted {
            self.http_failure = None;
            return;
        }
        let now = Instant::now();
        if self.http_due > now {
            return;
        }
        *http = None;
        let Some(address) = wanted else { return };
        match Http::listen(address, asks.clone()).await {
            Ok(listener) => {
                tracing::info!("the page is at http://{address}/");
                *http = Some(listener);
                self.http_failure = None;
            }
            Err(error) => {
                self.http_due = now + AGAIN;
                let text = error.to_string();
                if self.http_failure.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                    self.http_failure = Some(text);
                }
            }
        }
    }
}
