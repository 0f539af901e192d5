"""A cell as a dynamical system: fixed points and Lyapunov exponents."""
