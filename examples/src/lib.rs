//! One short file per lesson.
