//! Open a Mixture-of-Experts model, generate text, see its routing and what it saved.
