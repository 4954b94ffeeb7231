//! Who has the socket when, and what is dropped half-way.

use super::*;

/// Polls a future once, without any runtime.
fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn no_runtime_is_needed() {
    let client = client(Sent::nothing_there);
    assert!(poll(&mut Box::pin(client.flush())).is_ready());
    assert!(
        matches!(poll(&mut Box::pin(client.services())), Poll::Ready(Ok(list)) if list.is_empty())
    );
    let mut snapshot = Box::pin(client.snapshot());
    assert!((0..10).any(|_| poll(&mut snapshot).is_ready()));
    let mut batch = Box::pin(client.batch(&[Request::Flush]));
    assert!((0..10).any(|_| poll(&mut batch).is_ready()));
}

#[test]
fn a_call_that_is_dropped_has_sent_nothing() {
    let flushed = Arc::new(AtomicUsize::new(0));
    let client = client({
        let flushed = flushed.clone();
        move |sent| {
            flushed.fetch_add(usize::from(sent.request == Request::Flush), Ordering::Relaxed);
            sent.nothing_there()
        }
    });
    // Most are done when they are polled; some let others run first, and are dropped there.
    let mut done = 0;
    for _ in 0..1_000 {
        done += usize::from(poll(&mut Box::pin(client.flush())).is_ready());
    }
    assert!((900..1_000).contains(&done), "{done}");
    assert_eq!(flushed.load(Ordering::Relaxed), done);
    assert!(run(client.services()).unwrap().is_empty());
}

#[test]
fn a_batch_that_is_dropped_half_way_leaves_the_rest_unsent() {
    let written = Arc::new(AtomicUsize::new(0));
    let client = client({
        let written = written.clone();
        move |sent| {
            written.fetch_add(usize::from(sent.request == Request::Flush), Ordering::Relaxed);
            sent.nothing_there()
        }
    });
    let writes = vec![Request::Flush; 10_000];
    let mut batch = Box::pin(client.batch(&writes));
    assert!(poll(&mut batch).is_pending());
    drop(batch);
    let sent = written.load(Ordering::Relaxed);
    assert!(sent > 0 && sent < 1_000 && sent % 128 == 0, "{sent}");
    assert!(run(client.services()).unwrap().is_empty());
    assert_eq!(written.load(Ordering::Relaxed), sent);
}

/// A kernel with so many services without destinations, which counts what it is asked.
fn large(services: u16, asked: Arc<AtomicUsize>) -> impl FnMut(&Sent) -> Vec<Arrival> {
    move |sent| {
        asked.fetch_add(1, Ordering::Relaxed);
        match &sent.request {
            Request::ListServices => {
                let numbers: Vec<_> = (1..=services).collect();
                let entries = |numbers: &[u16]| {
                    let entries = numbers.iter().map(|&n| sent.entry(&service_of(numbered(n))));
                    Datagram(entries.collect::<Vec<_>>().concat())
                };
                numbers.chunks(50).map(entries).chain([sent.done(0)]).collect()
            }
            Request::GetService(key) => vec![sent.reply(&service_of(*key)), sent.acknowledge()],
            _ => sent.nothing_there(),
        }
    }
}

#[test]
fn a_call_gets_its_turn_within_a_snapshot() {
    let asked = Arc::new(AtomicUsize::new(0));
    let client = client(large(400, asked.clone()));
    run(async {
        let mut snapshot = Box::pin(client.snapshot());
        let mut calls = 0;
        loop {
            assert!(asked.swap(0, Ordering::Relaxed) < 100, "too much at a time");
            if let Poll::Ready(snapshot) = poll(&mut snapshot) {
                assert_eq!(snapshot.unwrap().services.len(), 400);
                break;
            }
            client.flush().await.unwrap();
            calls += 1;
        }
        assert!(calls > 5, "{calls}");
    });
}

#[test]
fn a_call_gets_its_turn_within_a_batch() {
    let client = client(Sent::nothing_there);
    let writes = vec![Request::Flush; 10_000];
    run(async {
        let mut batch = Box::pin(client.batch(&writes));
        let mut calls = 0;
        while poll(&mut batch).is_pending() {
            client.flush().await.unwrap();
            calls += 1;
        }
        assert!(calls > 5, "{calls}");
    });
}

#[test]
fn a_thread_gets_its_turn_within_a_snapshot() {
    let client = blocking::Client::from_socket(socket(large(400, Arc::default())));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let snapshots = scope.spawn(|| {
            let mut snapshots = 0;
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(client.snapshot().unwrap().services.len(), 400);
                snapshots += 1;
            }
            snapshots
        });
        // Each waits for a turn or two, and a snapshot has 802.
        for _ in 0..4_000 {
            client.flush().unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        let snapshots = snapshots.join().unwrap();
        assert!(snapshots < 100, "{snapshots} snapshots went first");
    });
}

#[test]
fn a_task_gets_its_turn_within_a_snapshot_on_another_thread() {
    let client = client(large(400, Arc::default()));
    let snapshots = run_on_two_threads(async {
        let taken = Arc::new(AtomicUsize::new(0));
        let snapshots = tokio::spawn({
            let (client, taken) = (client.clone(), taken.clone());
            async move {
                loop {
                    assert_eq!(client.snapshot().await.unwrap().services.len(), 400);
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let calls = tokio::spawn(async move {
            for _ in 0..4_000 {
                client.flush().await.unwrap();
            }
        });
        calls.await.unwrap();
        snapshots.abort();
        taken.load(Ordering::Relaxed)
    });
    assert!(snapshots < 100, "{snapshots} snapshots went first");
}

#[test]
fn a_call_gets_its_turn_beside_a_thread_that_makes_one_after_the_other() {
    let client = blocking::Client::from_socket(socket(Sent::nothing_there));
    let (started, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut calls = 0;
            while !ended.load(Ordering::Relaxed) {
                client.flush().unwrap();
                started.store(true, Ordering::Relaxed);
                calls += 1;
            }
            calls
        });
        while !started.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        for _ in 0..100 {
            client.flush().unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        // Within a millisecond or so, which is some hundred calls of the other thread.
        let others = others.join().unwrap();
        assert!(others < 500_000, "{others} calls went first");
    });
}

#[test]
fn other_tasks_run() {
    let client = client(Sent::nothing_there);
    // On a runtime that leaves that to its tasks, unlike tokio: two futures in turn, while they can.
    let calls = AtomicUsize::new(0);
    let mut busy = Box::pin(async {
        loop {
            client.flush().await.unwrap();
            calls.fetch_add(1, Ordering::Relaxed);
        }
    });
    for _ in 0..10 {
        let result: Poll<()> = poll(&mut busy);
        assert!(result.is_pending());
        let calls = calls.swap(0, Ordering::Relaxed);
        assert!((1..100).contains(&calls), "{calls}");
    }
}

#[test]
fn timers_fire_within_a_snapshot() {
    // tokio looks at its timers after 61 tasks, if all that it has are ready at once.
    let asked = Arc::new(AtomicUsize::new(0));
    let client = client(large(400, asked.clone()));
    run(async {
        let snapshots = tokio::spawn(async move {
            loop {
                client.snapshot().await.unwrap();
            }
        });
        tokio::task::yield_now().await;
        for _ in 0..10 {
            asked.store(0, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            let asked = asked.load(Ordering::Relaxed);
            assert!(asked < 1_000, "{asked} requests went first");
        }
        snapshots.abort();
    });
}

#[test]
fn a_panic_in_a_callers_closure_leaves_the_client_usable() {
    let kernel = |sent: &Sent| vec![sent.reply(&service()), sent.acknowledge()];
    let panics = |_: &mut Service| panic!("a fault of the caller's");
    let client = client(kernel);
    run(async {
        let task = tokio::spawn({
            let client = client.clone();
            async move { client.modify_service(&key(), panics).await }
        });
        assert!(task.await.is_err_and(|error| error.is_panic()));
        assert!(client.service(&key()).await.is_ok());
    });
    let client = blocking::Client::from_socket(socket(kernel));
    let thread = std::thread::spawn({
        let client = client.clone();
        move || client.modify_service(&key(), panics)
    });
    assert!(thread.join().is_err());
    assert!(client.service(&key()).is_ok());
}

#[test]
fn ten_thousand_calls_at_once_each_get_their_own_answer() {
    let client = client(|sent| match &sent.request {
        Request::GetService(key) => vec![sent.reply(&service_of(*key)), sent.acknowledge()],
        _ => sent.nothing_there(),
    });
    let answers = async || {
        let call = |number| {
            let client = client.clone();
            tokio::spawn(async move { client.service(&numbered(number)).await })
        };
        let mut answers = Vec::new();
        for call in (1..=10_000).map(call).collect::<Vec<_>>() {
            answers.push(*call.await.unwrap().unwrap().service.key());
        }
        answers
    };
    for answers in [run(answers()), run_on_two_threads(answers())] {
        assert!(answers.into_iter().eq((1..=10_000).map(numbered)));
    }
}
