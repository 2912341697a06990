use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use moebius_expert_kernels::{KernelError, Pool};

use crate::support::pool;

/// How often each task ran.
fn runs(pool: &Pool, n_tasks: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
    pool.for_each(n_tasks, |task| {
        counts[task].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_task_runs_once() {
    for threads in [1, 2, 3, 8] {
        let pool = pool(threads);
        for n_tasks in [0, 1, 2, 100] {
            assert_eq!(runs(&pool, n_tasks), vec![1; n_tasks]);
        }
    }
    assert_eq!(Pool::new(0).err(), Some(KernelError::ZeroDimension { what: "threads" }));
}

#[test]
fn many_short_jobs_in_a_row_lose_no_task() {
    let pool = pool(3);
    let done = AtomicUsize::new(0);
    for job in 0..5_000 {
        pool.for_each(1 + job % 5, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(done.into_inner(), 5_000 / 5 * (1 + 2 + 3 + 4 + 5));
}

#[test]
fn tasks_may_have_tasks_and_callers_may_share_a_pool() {
    let pool = pool(2);
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    pool.for_each(3, |_| {
                        pool.for_each(2, |_| {
                            done.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                }
            });
        }
    });
    assert_eq!(done.into_inner(), 4 * 50 * 3 * 2);
}

#[test]
fn every_chunk_is_seen_once_and_the_last_may_be_shorter() {
    for (threads, len, chunk_len) in [(1, 0, 4), (3, 3, 4), (3, 8, 4), (3, 103, 10)] {
        let mut values = vec![0; len];
        pool(threads).for_each_chunk(&mut values, chunk_len, |chunk, values| {
            values.iter_mut().for_each(|value| *value += chunk + 1);
        });
        assert!(
            values.iter().enumerate().all(|(index, value)| *value == index / chunk_len + 1),
            "{values:?}"
        );
    }
}

#[test]
fn what_tasks_wrote_is_there_when_the_call_returns() {
    let pool = pool(4);
    for round in 0..500 {
        let cells: Vec<AtomicUsize> = (0..16).map(|_| AtomicUsize::new(0)).collect();
        pool.for_each(16, |task| cells[task].store(round + task, Ordering::Relaxed));
        for (task, cell) in cells.iter().enumerate() {
            assert_eq!(cell.load(Ordering::Relaxed), round + task);
        }
    }
}

#[test]
fn a_panic_in_a_task_reaches_the_caller_and_the_pool_goes_on() {
    let pool = pool(3);
    for bad in [0, 5, 19] {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each(20, |task| assert_ne!(task, bad, "task {bad} fails"));
        }));
        let payload = caught.expect_err("a task panicked");
        let message = payload.downcast_ref::<String>().expect("assert_ne gives a message");
        assert!(message.contains(&format!("task {bad} fails")), "{message}");
        assert_eq!(runs(&pool, 7), vec![1; 7]);
    }
}
