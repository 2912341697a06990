//! Running checks: from a test, from a program, on one instance or on several.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use moebius_backend::{Backend, Error};

use crate::checks::{self, bitwise};
use crate::{Failed, Failure, Failures};

/// A check: it gets one instance and says what is wrong.
pub(crate) type Check = fn(&dyn Backend) -> Result<(), Failure>;

/// Checks that stand and fall together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// What may be loaded, what is refused, and when memory is given back.
    Loading,
    /// Dense projections and embedding rows.
    Linear,
    /// Banks of experts and what they tell the meter.
    Experts,
    /// The operations between projections.
    Ops,
    /// The same bits whatever the batch, the chunks and the instance.
    Bitwise,
}

impl Group {
    /// Every group, in the order in which they run.
    pub const ALL: [Group; 5] = [Group::Loading, Group::Linear, Group::Experts, Group::Ops, Group::Bitwise];

    /// All that plain tensor libraries can promise: every group but [`Group::Bitwise`].
    pub const VALUES: [Group; 4] = [Group::Loading, Group::Linear, Group::Experts, Group::Ops];
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Group::Loading => "loading",
            Group::Linear => "linear",
            Group::Experts => "experts",
            Group::Ops => "ops",
            Group::Bitwise => "bitwise",
        })
    }
}

/// The checks that a backend passed.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name and detail of the backend.
    pub backend: String,
    /// Group and name of each check.
    pub passed: Vec<(Group, &'static str)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed {} checks:", self.backend, self.passed.len())?;
        let ran =
            Group::ALL.map(|group| (group, self.passed.iter().filter(|check| check.0 == group).count()));
        let mut separator = "";
        for (group, passed) in ran.into_iter().filter(|&(_, passed)| passed > 0) {
            write!(f, "{separator} {group} {passed}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// Runs every check of every group.
///
/// # Errors
/// [`Failures`] with all checks that did not pass; a panic inside the backend is one of them.
pub fn accept(backend: &dyn Backend) -> Result<Report, Failures> {
    accept_groups(backend, &Group::ALL)
}

/// Runs every check of some groups.
///
/// # Errors
/// As for [`accept()`].
pub fn accept_groups(backend: &dyn Backend, groups: &[Group]) -> Result<Report, Failures> {
    let (mut passed, mut failed) = (Vec::new(), Vec::new());
    let checks = checks::all().into_iter().filter(|(group, _, _)| groups.contains(group));
    for (group, name, check) in checks {
        let caught = catch_unwind(AssertUnwindSafe(|| check(backend)));
        match caught.unwrap_or_else(|payload| Err(Failure::Panicked(panic_text(&*payload)))) {
            Ok(()) => passed.push((group, name)),
            Err(failure) => failed.push(Failed { group, check: name, failure }),
        }
    }
    let (backend, of) = (title(backend), passed.len() + failed.len());
    if failed.is_empty() { Ok(Report { backend, passed }) } else { Err(Failures { backend, failed, of }) }
}

/// Compares two instances bit for bit, on projections, experts and the operations between them.
///
/// # Errors
/// The first difference, or the first call that one of them refused.
pub fn same_bits(a: &dyn Backend, b: &dyn Backend) -> Result<(), Failure> {
    bitwise::instances_agree(a, b).map_err(|failure| failure.at(format!("{} against {}", title(a), title(b))))
}

/// What the closure of [`crate::accept!`] may return.
pub trait Instances {
    /// All instances, boxed.
    ///
    /// # Errors
    /// The first instance that could not be opened.
    fn boxed(self) -> Result<Vec<Box<dyn Backend>>, Error>;
}

impl<B: Backend + 'static> Instances for Result<B, Error> {
    fn boxed(self) -> Result<Vec<Box<dyn Backend>>, Error> {
        Ok(vec![Box::new(self?)])
    }
}

impl<B: Backend + 'static> Instances for Vec<Result<B, Error>> {
    fn boxed(self) -> Result<Vec<Box<dyn Backend>>, Error> {
        self.into_iter().map(|backend| Ok(Box::new(backend?) as Box<dyn Backend>)).collect()
    }
}

/// Opens what a test works on.
///
/// # Panics
/// If an instance cannot be opened: the test fails.
pub fn open(instances: impl Instances) -> Vec<Box<dyn Backend>> {
    instances.boxed().unwrap_or_else(|error| panic!("{}", Failure::from(error).chain()))
}

/// Runs one check on every instance.
///
/// # Panics
/// With the first failure: the test fails.
pub fn verify(backends: &[Box<dyn Backend>], check: fn(&dyn Backend) -> Result<(), Failure>) {
    for backend in backends {
        if let Err(failure) = check(&**backend) {
            panic!("{}: {}", title(&**backend), failure.chain());
        }
    }
}

/// Compares every instance of `others` with the first of `backends`.
///
/// # Panics
/// With the first difference: the test fails.
pub fn verify_same_bits(backends: &[Box<dyn Backend>], others: &[Box<dyn Backend>]) {
    for other in others {
        if let Err(failure) = same_bits(&*backends[0], &**other) {
            panic!("{}", failure.chain());
        }
    }
}

fn title(backend: &dyn Backend) -> String {
    let info = backend.info();
    format!("`{}` ({})", info.name, info.detail)
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}
