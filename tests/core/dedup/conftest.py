"""Searches of these tests are small: threads of faiss would only wait for each other."""

import faiss
import pytest


@pytest.fixture(autouse=True)
def one_faiss_thread() -> None:
    faiss.omp_set_num_threads(1)
