//! What Python makes of `d.items()`, of filters such as `map` and of `cycler`: things to walk over that are no lists.
//!
//! Invariants: a generator is true even if nothing is in it, has no length, and can be walked over once; neither
//! kind is JSON or has elements by number.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, Value, from_args};
use minijinja::{Error, ErrorKind, State};

/// The keys, values or items of a dictionary.
#[derive(Debug)]
pub(super) struct View {
    name: &'static str,
    items: Vec<Value>,
}

impl View {
    pub(super) fn value(name: &'static str, items: impl Iterator<Item = Value>) -> Value {
        Value::from_object(Self { name, items: items.collect() })
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, Value::from(self.items.clone()))
    }
}

/// What a filter hands out one by one.
#[derive(Debug)]
pub(super) struct Generator {
    left: Mutex<Vec<Value>>,
}

impl Generator {
    pub(super) fn value(items: Vec<Value>) -> Value {
        Value::from_object(Self { left: Mutex::new(items) })
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(std::mem::take(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}

/// What hands out its items in turns.
#[derive(Debug)]
pub(super) struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    /// `cycler(*items)`
    pub(super) fn value(Rest(items): Rest<Value>) -> Result<Value, Error> {
        if items.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "`cycler`: at least one item has to be given",
            ));
        }
        Ok(Value::from_object(Cycler { items, at: AtomicUsize::new(0) }))
    }

    fn current(&self) -> Value {
        self.items[self.at.load(Ordering::Relaxed) % self.items.len()].clone()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let () = from_args(args)?;
        match method {
            "next" => {
                let current = self.current();
                self.at.fetch_add(1, Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(().into())
            }
            _ => Err(ErrorKind::UnknownMethod.into()),
        }
    }
}

/// Whether `value` is one of the first two, which Python's `json` refuses.
pub(super) fn is_lazy(value: &Value) -> bool {
    value.downcast_object_ref::<View>().is_some() || value.downcast_object_ref::<Generator>().is_some()
}
