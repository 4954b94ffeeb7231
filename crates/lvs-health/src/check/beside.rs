//! Two futures in one task.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

/// Awaits the work while something else that it stands on is driven. Both end with the work.
pub(crate) async fn beside<T>(background: impl Future, work: impl Future<Output = T>) -> T {
    let (mut background, mut work) = (pin!(background), pin!(work));
    let mut is_over = false;
    poll_fn(|context| {
        if !is_over {
            is_over = background.as_mut().poll(context).is_ready();
        }
        match work.as_mut().poll(context) {
            // What the work waited for came to its end just now.
            Poll::Pending if is_over => work.as_mut().poll(context),
            other => other,
        }
    })
    .await
}
