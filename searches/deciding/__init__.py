"""Search strategy and statistics: next trial, early stopping, comparison of finalists, answer. No Ray and no MLflow."""
