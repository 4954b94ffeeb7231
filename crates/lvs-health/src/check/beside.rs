//! Two futures in one task.

use std::{
    future::{Future, poll_fn},
    pin::pin,
};

/// Awaits the work while something else that it stands on is driven. Both end with the work.
pub(crate) async fn beside<T>(background: impl Future, work: impl Future<Output = T>) -> T {
    let (mut background, mut work) = (pin!(Some(background)), pin!(work));
    poll_fn(|context| {
        let driven = background.as_mut().as_pin_mut();
        if driven.is_some_and(|driven| driven.poll(context).is_ready()) {
            // What it holds goes with it: the work may wait for an end of that.
            background.set(None);
        }
        work.as_mut().poll(context)
    })
    .await
}
