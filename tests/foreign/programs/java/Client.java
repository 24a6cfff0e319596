import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/** The client of the JDK. As it comes, it offers an upgrade to HTTP/2 with its first request. */
class Client {
    private static final String URL = System.getenv("URL");

    public static void main(String[] args) throws Exception {
        var client = HttpClient.newBuilder()
            .version(HttpClient.Version.valueOf(args[0]))
            .followRedirects(HttpClient.Redirect.NORMAL)
            .connectTimeout(Duration.ofSeconds(30))
            .build();
        var nothing = BodyPublishers.noBody();
        ask(client, "GET", "/page", nothing);
        ask(client, "GET", "/page/old", nothing);
        ask(client, "HEAD", "/page", nothing);
        ask(client, "GET", "/trailers", nothing);
        ask(client, "GET", "/chunks", nothing);
        ask(client, "GET", "/bytes?count=3000000", nothing);
        ask(client, "POST", "/upload", BodyPublishers.ofString("a body"));
        ask(client, "PUT", "/upload", BodyPublishers.ofByteArray(new byte[3_000_000]));
        ask(client, "DELETE", "/none", nothing);
        List<CompletableFuture<String>> answers = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            var request = request("GET", "/tagged", nothing);
            answers.add(client.sendAsync(request, BodyHandlers.ofString()).thenApply(answer -> answer.body().trim()));
        }
        for (var answer : answers) {
            System.out.println(answer.get());
        }
    }

    private static HttpRequest request(String method, String path, HttpRequest.BodyPublisher body) {
        return HttpRequest.newBuilder(URI.create(URL + path)).method(method, body).timeout(Duration.ofSeconds(30)).build();
    }

    private static void ask(HttpClient client, String method, String path, HttpRequest.BodyPublisher body)
        throws Exception {
        var answer = client.send(request(method, path, body), BodyHandlers.ofByteArray());
        System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.uri());
        answer.headers().map().forEach((name, values) ->
            values.forEach(value -> System.out.println(name + ": " + value)));
        System.out.println();
        var bytes = answer.body();
        System.out.println(bytes.length < 100 ? new String(bytes, StandardCharsets.UTF_8) : bytes.length + " bytes");
    }
}
